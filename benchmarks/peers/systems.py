"""The systems that are measured, and what each does and leaves out of the contract's work."""

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """WORK: the contract's work. LOOKUP: one look-up, nothing written. CONSUME: counts records, no more."""

    WORK = "work"
    LOOKUP = "lookup"
    CONSUME = "consume"


@dataclass(frozen=True)
class System:
    """A peer: a module of this package that runs as a process of its own.

    `share` is the part of all events it takes: enough for a steady rate, few enough to wait for.
    """

    name: str
    module: str
    kind: Kind
    share: float
    arguments: tuple[str, ...] = ()
    does: tuple[str, ...] = ()
    skips: tuple[str, ...] = ()
    is_python: bool = True
    is_optional: bool = False  # left out with a reason where it cannot be had
    runs_once: bool = False  # in the first round only: it takes a minute to start


WORKER = ("worker", "--without-web", "--loglevel", "ERROR")

DONE = (
    "decodes every field",
    "resolves the party",
    "joins the highest version in force of party, authorization, site and each serial's asset",
    "judges every row rule",
    "writes typed rows and findings to zstd Parquet",
)
SEKISHO_DOES = (
    "decodes strictly, keeps what it rejects",
    *DONE[1:],
    "writes every record as it came (raw)",
    "follows the reference topics while it runs",
    "publishes findings to Kafka",
    "commits to Delta tables, synced, each record exactly once",
)
SKIPPED = (
    "strict decoding (wrong types and unknown values pass)",
    "raw evidence",
    "following the reference topics (versions are loaded before the clock starts)",
    "publishing findings",
    "fsync, Delta commits and exactly once",
)
FLINK_DOES = (
    "decodes every field, times to the millisecond",
    "resolves the party",
    "joins the last version to begin of party, authorization, site and each serial's asset (temporal joins)",
    "judges the row rules",
    "writes typed rows and findings to zstd Parquet, each once (a checkpoint every 5 s)",
)
FLINK_SKIPS = (
    "the highest version in force, where another one began later",
    "flag.identity.ambiguous (one binding a principal), other spellings of models",
    "verdicts of serials and conditions among a row's own (they are findings)",
    *(part for part in SKIPPED if "fsync" not in part and "following" not in part),
    "Delta commits",
)
LOOKED_UP = ("parses JSON", "looks one status up and compares one country")
LOOKUP_SKIPS = ("versions in force", "all other rules", "writing anything", *SKIPPED)

SEKISHO = System("sekisho", "", Kind.WORK, 1.0, (), SEKISHO_DOES, is_python=False)

SYSTEMS = (
    System("faust", "faust_work", Kind.WORK, 0.03, WORKER, DONE, SKIPPED),
    System("quix", "quix_work", Kind.WORK, 0.1, (), DONE, SKIPPED),
    System("bytewax", "bytewax_work", Kind.WORK, 0.1, (), DONE, SKIPPED),
    System(
        "flink",
        "flink_work",
        Kind.WORK,
        0.2,
        (),
        FLINK_DOES,
        FLINK_SKIPS,
        is_python=False,
        is_optional=True,
        runs_once=True,
    ),
    System("faust_lookup", "faust_lookup", Kind.LOOKUP, 0.03, WORKER, LOOKED_UP, LOOKUP_SKIPS),
    System("quix_lookup", "quix_lookup", Kind.LOOKUP, 0.25, (), LOOKED_UP, LOOKUP_SKIPS),
    System("bytewax_lookup", "bytewax_lookup", Kind.LOOKUP, 0.5, (), LOOKED_UP, LOOKUP_SKIPS),
    System("confluent_kafka_consume", "confluent_consume", Kind.CONSUME, 1.0, (), ("counts records",)),
    System("aiokafka_consume", "aiokafka_consume", Kind.CONSUME, 1.0, (), ("counts records",)),
    System(
        "whole_fetch_consume",
        "whole_fetch_consume",
        Kind.CONSUME,
        1.0,
        (),
        ("counts records handed over by Sekisho's transport, with Faust's worker and group",),
        is_python=False,
    ),
)
"""All others, in the order in which a round runs them."""
