"""Compiles the fast decoder and keeps the result on disk, so that no worker has to: some seconds, once.

`python -m deploy.precompile`; does nothing where numba is not installed.
"""

import pyarrow as pa

from schemas.columns import WORTH_LOADING, decode
from schemas.events import EVENTS


def main() -> None:
    """Decode enough payloads of each stream for the fast decoder to be loaded."""
    for record in EVENTS.values():
        decode(record, pa.array([b"{}"] * WORTH_LOADING, pa.binary()))


if __name__ == "__main__":
    main()
