"""A rule file for tests that need one of their own."""

from pathlib import Path

RULE = """\
id = "flag.access.big"
version = 3
title = "Big"
kind = "row"
severity = "high"
status = "stable"
streams = ["access"]
citations = ["AU-3"]
subject = ["party"]
condition = '''
bytes_out > $limit
and operation <> 'x' and t > broker_time - $window
'''
message = "{subject} sent more than {limit}."
known_gaps = []
what_to_do = "Ask."

[in_force]
codified = false
enforced = false

[parameters.limit]
type = "int"
value = 100
unit = "bytes"

[parameters.window]
type = "duration"
value = 90
unit = "minutes"

[[tests]]
name = "more"
timeline = '''
10:00 access {"bytes_out": 101}
'''
fires = ["flag.access.big party:P-1"]

[[tests]]
name = "no more"
timeline = '''
10:00 access {"bytes_out": 100}
'''
fires = []
"""


def write(root: Path, text: str, name: str = "flag.access.big.toml", link: str = "access") -> Path:
    """Writes the text as a rule file under `root` and returns its path."""
    path = root / link / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
