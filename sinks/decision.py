"""A commit of one table that decides for several: the others' commits are derived from it alone.

So a crash between them is repaired from the deciding table's log, without any other source. There are two
kinds: a worker's batch, decided by `raw` (sinks/batch.py), and a step of the reconciler, decided by
`finding_history` (sinks/settlement.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from schemas.errors import SekishoError
from sinks.batch import File
from sinks.log import DeltaLog


class Decision(Protocol):
    """What the deciding entry says about each of the other tables."""

    def files(self, table: str) -> Sequence[File]: ...

    def table_txns(self, table: str) -> Mapping[str, int]:
        """The versions by appId that show that `table` has the commit; they never go back."""
        ...

    def table_info(self, table: str, version: int) -> Mapping[str, Any]:
        """The `sekisho` object of the table's commit; `version` is the deciding entry's."""
        ...


def complete(log: DeltaLog, decision: Decision, version: int) -> None:
    """Commits to the table of `log` what entry `version` decided, unless somebody has done so already."""
    table = log.table.name
    txns = decision.table_txns(table)

    def done() -> bool:
        return all(log.txns.get(app, -1) >= end for app, end in txns.items())

    log.commit(decision.files(table), txns, decision.table_info(table, version), done)


def check_files(log: DeltaLog, decision: Decision) -> None:
    """Raises SekishoError where a file that is to be committed after a crash is not there or not whole."""
    for file in decision.files(log.table.name):
        path = log.table / file.path
        if not path.is_file() or path.stat().st_size != file.size:
            raise SekishoError(f"the lake has lost {path}, which its log names: restore it from a copy")
