"""The running processor: fetch, decode, join, judge, land; and the command line."""
