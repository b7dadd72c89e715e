"""Random directories for `sekisho scan`: few things with many overlapping versions, and times on every edge.

Everything follows from the seed. Times are drawn from a small grid of instants, each rule's edges apart and
a microsecond beside them, so that equalities are met as often as not.
"""

import datetime
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.broken import Pair, broken, quoted, words, written
from tests.plain.tables import EVENTS, IDS, REFERENCES, Column

EPOCH = datetime.datetime(1970, 1, 1)
SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
KH = 1_770_076_800 * SECOND  # 2026-02-03T00:00:00Z
OFFSETS = [
    ("Z", 0),
    ("+00:00", 0),
    ("-00", 0),
    ("+09:00", 540),
    ("-0330", -210),
    ("+14", 840),
    ("+23:59", 1439),
]

PARTIES = ["P-1", "P-2", "p-1", "P-1 ", "P|3", "当事者-4", "P-\U0001f642", "P-5"]
PRINCIPALS = [
    "slurm:anna",
    "slurm:bo",
    "aws/1:arn:x/y",
    "k8s:c",
    "K8S:c",
    "slurm:a\u0301",
    "slurm:\u00e1",
    "g",
]
SITES = ["S-1", "S-2", "s-1", "地点", "S-4"]
SERIALS = [f"SN{number}" for number in range(8)] + ["sn1", "SN 1"]
AUTHORIZATIONS = ["A-1", "A-2", "A-3", "A|4", "a-1", "A-5"]
SOURCES = ["slurm/one", "slurm/two", "iam", "iam/\u00df", "placer"]
ALLOCATIONS = [f"slurm/c/{number}" for number in range(40)]
COUNTRIES = [
    *words("""
JP US CN cn HK hk Hk KH kh Kh MO RU ru JP jp XX ir DE HKG C
"""),
]
MODELS = (
    """
NVIDIA H100|nvidia-h100|H100|h_1-0 0|H100 SXM|NVIDIA H20|h20|nvidia_h20|N V I D I A H20|H200|AMD MI308|mi308
MI300X|Intel H20|H-20|NVIDIA X9|X9|nvidia x9|Ascend 910B|Huawei-Ascend_910b|TPU v5e|google tpuv5E|NVIDIA|h
NVIDIA NVIDIA H20|RTX4090|NVIDIA RTX 4090|H20 |AMD-H20|A100 pcie|A 100|モデル|NVIDIA モデル|Gaudi2
aws trainium-2|Trainium 2
""".strip()
    .replace("\n", "|")
    .split("|")
)
POOLS: dict[str, list[str]] = {
    "party_id": PARTIES,
    "principal": PRINCIPALS,
    "site_id": SITES,
    "from_site_id": SITES,
    "authorization_id": AUTHORIZATIONS,
    "allocation_id": ALLOCATIONS,
    "source": SOURCES,
    "serial": SERIALS,
    "serials": SERIALS,
    "broker_id": PARTIES,
    "brokers": PARTIES,
    "party_ids": PARTIES,
    "models": MODELS,
    "model": MODELS,
    "site_ids": SITES,
    "methods": ["direct", "brokered", "remote", "Direct", ""],
    "remote_countries": [*COUNTRIES, ""],
    "country": COUNTRIES,
    "hq_country": COUNTRIES,
    "parent_hq_country": COUNTRIES,
    "source_country": COUNTRIES,
    "workload_id": [f"w/{number}" for number in range(10)],
    "binding_id": [f"b{number}" for number in range(12)],
    "list": ["SDN", "EUL"],
    "entry_id": ["1", "2", "3"],
    "condition_id": ["C-1", "C-2", "C|3", ""],
}
WORDS = [
    "x",
    "長い名前",
    'quo"te',
    "back\\slash",
    "a\nb",
    "a\u0000b",
    "\U0001f642",
    "null",
    "0",
    " ",
    "é" * 30,
]
FAVOURED = {"verified", "clear", "installed"}  # else nearly every row would fire the same rules
STRANGERS = [
    *words("""
Event_id eventId tenant ingested_at topic offset partition dt future verdicts party_version
party_id_sent sha256 tombstone_at t stream parties broker_time P.status event_id key value row serials
model silence_limit_s
"""),
    "",
]
"""Names that are unknown to most streams: some are named for others, some are columns of the lake."""


@dataclass(frozen=True)
class Generated:
    """What must be told to `scan` beside the directory."""

    until: str | None


class Maker:
    """Draws records."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        start = KH - 20 * DAY
        self.instants = [KH, *(start + self.rng.randrange(40 * 1440) * MINUTE for _ in range(12))]
        self.instants += [start + self.rng.randrange(40 * DAY) for _ in range(4)]
        self.events = 0

    def instant(self) -> int:
        """A grid instant, or a microsecond beside it."""
        return self.rng.choice(self.instants) + self.rng.choice([0, 0, 0, 0, 1, -1])

    def time(self, name: str) -> int:
        at = self.instant()
        if name == "screened_at":
            return at - self.rng.choice([0, 30 * DAY, 30 * DAY, 30 * DAY, 29 * DAY])
        if name == "valid_from":
            return at - self.rng.choice([0, 0, 20 * DAY, 60 * DAY])
        if name in ("valid_to", "review_due_at"):
            return at + self.rng.choice([0, 0, 20 * DAY])
        return at

    def spelled(self, at: int) -> str:
        """One of the ways to write an instant."""
        suffix, minutes = self.rng.choice(OFFSETS)
        local = EPOCH + datetime.timedelta(microseconds=at, minutes=minutes)
        text = local.strftime(f"%Y-%m-%d{self.rng.choice('TTT ')}%H")
        if not local.microsecond and self.rng.random() < 0.7:
            if local.second:
                text += local.strftime(":%M:%S")
            elif local.minute or self.rng.random() < 0.5:
                text += local.strftime(":%M")
        else:
            micros = f"{local.microsecond:06}"
            digits = self.rng.choice([micros + "999", micros, micros + "0", micros.rstrip("0") or "0"])
            text += local.strftime(":%M:%S.") + digits
        return text + suffix

    def text(self, value: Any) -> str:
        return json.dumps(value, ensure_ascii=self.rng.random() < 0.3)

    def word(self, column: Column) -> str:
        if column.enum:
            usual = [value for value in column.enum if value in FAVOURED]
            return usual[0] if usual and self.rng.random() < 0.6 else self.rng.choice(column.enum)
        return self.rng.choice(POOLS.get(column.name, WORDS))

    def value(self, column: Column) -> str:
        """A good value that is not null, as JSON text."""
        rng = self.rng
        match column.kind:
            case "string":
                if column.name == "event_id" and rng.random() > 0.01:
                    self.events += 1
                    return self.text(f"e{self.events}")
                return self.text(self.word(column))
            case "strings":
                pool = POOLS.get(column.name, WORDS)
                return self.text([rng.choice(pool) for _ in range(rng.choice([0, 1, 1, 2, 3, 6]))])
            case "bool":
                return rng.choice(["true", "false"])
            case "int":
                low = column.least if column.least is not None else -5
                return str(rng.choice([low, 1, 8, 64, rng.randrange(1, 100), 2**63 - 1]))
            case "number":
                return rng.choice(
                    ["0", "4800", "0.5", "1e3", "1E+2", "-1.25", "1e308", "123456789012345678901"]
                )
            case "time":
                return quoted(self.spelled(self.time(column.name)))
            case "date":
                return rng.choice(['"2026-02-03"', '"1999-12-31"', '"2024-02-29"'])
            case _:
                return f"[{','.join(self.item(column) for _ in range(rng.choice([0, 1, 2, 3])))}]"

    def item(self, column: Column) -> str:
        pairs = [(quoted(inner.name), self.value(inner)) for inner in column.inner if self.rng.random() < 0.8]
        if self.rng.random() < 0.2:
            pairs.append((quoted("note"), self.wild()))
        return "{" + ",".join(f"{name}:{value}" for name, value in pairs) + "}"

    def wild(self, depth: int = 0) -> str:
        """Any JSON at all."""
        rng = self.rng
        kind = rng.randrange(6 if depth > 3 else 8)
        if kind == 6:
            return f"[{', '.join(self.wild(depth + 1) for _ in range(rng.randrange(4)))}]"
        if kind == 7:
            names = [
                rng.choice(["a", "a", "event_id", "", "NaN", "é", "\\u0061"]) for _ in range(rng.randrange(4))
            ]
            return "{" + ",".join(f"{quoted(name)}:{self.wild(depth + 1)}" for name in names) + "}"
        odd = [
            "1e308",
            "1e-320",
            "-0.0",
            "12345678901234567890123",
            '"NaN"',
            '"\\\\ud800"',
            '"\\ud83d\\ude42"',
            '"]}"',
        ]
        return rng.choice(["null", "true", "7", '""', '"\\""', self.text(rng.choice(WORDS)), *odd])

    def pairs(self, columns: tuple[Column, ...], nulls: float) -> list[Pair]:
        """A good record; optional fields are null in one of three ways with probability `nulls`."""
        pairs = []
        for column in columns:
            lacks = 0.5 if column.name == "valid_to" else nulls
            if column.required or self.rng.random() > lacks:
                pairs.append((quoted(column.name), self.value(column)))
            elif self.rng.random() < 0.6:
                pairs.append((quoted(column.name), self.rng.choice(["null", '""'])))
        named = {column.name for column in columns}
        for name in self.rng.sample(STRANGERS, self.rng.choice([0, 0, 0, 0, 1, 3])):
            if name not in named:
                pairs.append((quoted(name), self.wild()))
        return pairs

    def line(self, columns: tuple[Column, ...], faults: float) -> bytes:
        pairs = self.pairs(columns, self.rng.choice([0.1, 0.3, 0.7]))
        return broken(self.rng, pairs, columns) if self.rng.random() < faults else written(self.rng, pairs)

    def tombstone(self, kind: str) -> bytes:
        pairs = [(quoted(name), self.text(self.rng.choice(POOLS[name]))) for name in IDS[kind]]
        pairs.append((quoted("tombstone_at"), quoted(self.spelled(self.instant()))))
        if self.rng.random() < 0.2:  # a wrong value, or one name too many
            at = self.rng.randrange(len(pairs))
            pairs[at] = (pairs[at][0], self.rng.choice(["null", '""', "5", '"2026-02-03"', "[]"]))
        if self.rng.random() < 0.1:
            pairs.append((quoted("version"), "1"))
        return written(self.rng, pairs)

    def versions(self, kind: str) -> list[bytes]:
        """All lines of a reference file: versions again as they were, or changed, among them."""
        columns, lines = REFERENCES[kind], []
        earlier: list[list[Pair]] = []
        for _ in range(self.rng.choice([0, 5, 60, 90, 90, 120])):
            pairs = self.pairs(columns, self.rng.choice([0.1, 0.3, 0.6]))
            dice = self.rng.random()
            if dice < 0.06:
                lines.append(self.tombstone(kind))
                continue
            if dice < 0.25 and earlier:
                pairs = self.again(self.rng.choice(earlier), columns)
            elif dice < 0.32:
                lines.append(broken(self.rng, pairs, columns))
                continue
            else:  # mostly its own number, so that most versions are admitted
                number = str(self.rng.choice([len(earlier), -len(earlier), self.rng.randrange(200)]))
                pairs = [(name, number if name == '"version"' else value) for name, value in pairs]
            earlier.append(pairs)
            lines.append(written(self.rng, pairs))
        return lines

    def again(self, pairs: list[Pair], columns: tuple[Column, ...]) -> list[Pair]:
        """The same id and version: the same, the same in other words, or changed in one field."""
        pairs = list(pairs)
        if self.rng.random() < 0.5:
            return pairs
        column = self.rng.choice(columns[1:])
        value = (
            self.rng.choice([self.value(column), "null", "[]"]) if not column.required else self.value(column)
        )
        if column.name in ("version", "entry_id"):
            return pairs
        return [*(pair for pair in pairs if pair[0] != quoted(column.name)), (quoted(column.name), value)]


def _large(maker: Maker, columns: tuple[Column, ...], size: int) -> bytes:
    """A good record of exactly `size` bytes."""
    pairs = [(quoted(column.name), maker.value(column)) for column in columns if column.required]
    bare = written(maker.rng, [*pairs, (quoted("padding"), '""')]).rstrip(b"\r")
    return bare.replace(b'""', b'"' + b"x" * (size - len(bare)) + b'"', 1)


def generate(directory: Path, seed: int, events: int = 5000) -> Generated:
    """Write the files of one scan into a new `directory`."""
    maker = Maker(seed)
    rng = maker.rng
    directory.mkdir(parents=True)
    files = {kind: maker.versions(kind) for kind in REFERENCES}
    for name, columns in EVENTS.items():
        lines = [maker.line(columns, 0.05) for _ in range(events // len(EVENTS) + 1)]
        lines += rng.sample(lines, len(lines) // 100)  # duplicates, which land
        lines += [_large(maker, columns, size) for size in rng.sample([1 << 20, (1 << 20) + 1, 1 << 19], 1)]
        rng.shuffle(lines)
        files[name] = lines
    for name, lines in files.items():
        if lines or rng.random() < 0.5:  # an empty file, or none
            end = b"\n" if rng.random() < 0.7 else b""
            (directory / f"{name}.ndjson").write_bytes(b"\n".join(lines) + (end if lines else b""))
    until = maker.instant() - rng.choice([0, 5 * MINUTE, 5 * MINUTE])  # the edge of `future`
    return Generated(until=maker.spelled(until) if seed % 3 == 1 else None)
