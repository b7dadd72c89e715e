"""Compiles the fast decoder and the fast look-up of ids, and keeps the result on disk, so that no process
has to: some seconds, once.

`python -m deploy.precompile`; does nothing where numba is not installed.
"""

import pyarrow as pa

from rules import keys
from schemas.columns import WORTH_LOADING, decode
from schemas.events import EVENTS


def main() -> None:
    """Decode enough payloads of each stream for the fast decoder to be loaded, and look enough names up."""
    for record in EVENTS.values():
        decode(record, pa.array([b"{}"] * WORTH_LOADING, pa.binary()))
    names = pa.array([str(number) for number in range(keys.WORTH_LOADING)])
    held = keys.Keys()
    held.intern(names)
    held.find(names)


if __name__ == "__main__":
    main()
