"""The verbs of the command line: module `<verb>.py` holds the click command `<verb>`."""
