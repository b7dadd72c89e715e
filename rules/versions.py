"""All versions of one kind of reference record: admission, validity, and the columns that rules need.

Versions may be added in any order and in batches of any size; the same set of them gives the same answers.
What an addition costs depends on the keys it touches, not on how many there are.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rules.asof import FOREVER, Intervals, Ints, Keys, Runs, Segments, flatten
from rules.growing import Growing, distinct
from schemas.record import Record

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Admission:
    """What becomes of each version of a batch: exactly one of the masks is true.

    A `duplicate` equals a version already there, a `conflict` bears its id and number but differs.
    """

    fresh: Mask
    duplicate: Mask
    conflict: Mask


def identity(record: Record, rows: pa.RecordBatch) -> pa.Array:
    """One string per row, equal where the id is; of ids in two parts it tells `a|b`, `c` from `a`, `b|c`."""
    parts = [rows.column(name) for name in record.key]
    assert not any(part.null_count for part in parts), f"a {record.name} without its id"
    if len(parts) == 1:
        return parts[0]
    assert len(parts) == 2
    length = pc.binary_length(parts[0]).cast(pa.string())
    return pc.binary_join_element_wise(length, *parts, "|")


def times(column: pa.Array) -> Ints:
    """A time column as int64 µs; 0 stands for null."""
    assert pa.types.is_timestamp(column.type) and column.type.unit == "us", column.type
    return ints(column.view(pa.int64()))


def ints(column: pa.Array) -> Ints:
    """An int column as int64; 0 stands for null."""
    values: Ints = column.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return values


@dataclass(frozen=True)
class _Rows:
    """The numbers of a batch's rows, in columns."""

    keys: Ints
    versions: Ints
    starts: Ints  # valid_from; of a tombstone 0
    ends: Ints  # valid_to or FOREVER; of a tombstone the time at which it ends the others
    partitions: Ints
    offsets: Ints
    tombstones: Mask
    digests: npt.NDArray[np.uint64]  # 4 words a row


def _rows(keys: Ints, batch: pa.RecordBatch) -> _Rows:
    ends = np.where(_valid(batch["valid_to"]), times(batch["valid_to"]), FOREVER)
    tombstones = ~_valid(batch["version"])
    if tombstones.any():
        assert batch["tombstone_at"].filter(pa.array(tombstones)).null_count == 0, (
            "a tombstone without its time"
        )
        ends = np.where(tombstones, times(batch["tombstone_at"]), ends)
    digest = batch["sha256"]
    assert digest.null_count == 0, "a row without its sha256"
    words = np.frombuffer(digest.buffers()[1], "<u8")[4 * digest.offset : 4 * (digest.offset + len(digest))]
    return _Rows(
        keys,
        ints(batch["version"]),
        times(batch["valid_from"]),
        ends,
        ints(batch["partition"]),
        ints(batch["offset"]),
        tombstones,
        words.reshape(-1, 4),
    )


def _valid(column: pa.Array) -> Mask:
    valid: Mask = column.is_valid().to_numpy(zero_copy_only=False)
    return valid


class Versions:
    """The versions and tombstones of one record, numbered as they were added."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self.keys = Keys()
        self.intervals = Intervals()
        self.versions = Growing(np.int64)
        self.count = 0
        self.row_keys = Growing(np.int32)
        self._starts, self._ends = Growing(np.int64), Growing(np.int64)
        self._partitions, self._offsets = Growing(np.int32), Growing(np.int64)
        self._tombstones = Growing(np.bool_)
        self._digests = Growing(np.dtype("V32"))
        self._lists = Runs(1)  # the rows of each key

    def at(self, ids: pa.Array, at: Ints) -> Ints:
        """The row of the version of each id (as by `identity`) in force at each time, or -1."""
        return self.intervals.at(self.keys.find(ids), at)

    def until(self, ids: pa.Array, at: Ints) -> Ints:
        """The time before which each id has the same version in force, or none, as at the given time."""
        return self.intervals.until(self.keys.find(ids), at)

    def rows_of(self, keys: Ints) -> tuple[Ints, Ints]:
        """(position within `keys`, row) of all versions and tombstones of these keys."""
        groups, (rows,) = self._lists.gather(keys)
        return groups, rows

    def admit(self, batch: pa.RecordBatch) -> Admission:
        """Say of each row whether it is new. Nothing is remembered: `add` what is to count.

        Of the rows with one id and version the original is the one that is held, else the first of the batch
        by (partition, offset); what is already held at the very same coordinates is fresh again.
        """
        encoded = identity(self.record, batch).dictionary_encode()
        new = _rows(ints(encoded.indices), batch)
        groups, rows = self.rows_of(self.keys.find(encoded.dictionary))
        held = np.flatnonzero(~self._tombstones.values[rows])
        groups, rows = groups[held], rows[held]
        versions = np.flatnonzero(~new.tombstones)
        merged = _Candidates(
            np.concatenate((groups, new.keys[versions])),
            np.concatenate((self.versions.values[rows], new.versions[versions])),
            np.concatenate((self._partitions.values[rows], new.partitions[versions])),
            np.concatenate((self._offsets.values[rows], new.offsets[versions])),
            np.concatenate((self._digests.values[rows].view("<u8").reshape(-1, 4), new.digests[versions])),
            len(rows),
        )
        fresh, equal = np.ones(batch.num_rows, bool), np.ones(batch.num_rows, bool)
        fresh[versions], equal[versions] = merged.judge()
        return Admission(fresh, ~fresh & equal, ~fresh & ~equal)

    def add(self, batch: pa.RecordBatch) -> tuple[Ints, Mask]:
        """Add versions that were admitted as fresh, and tombstones; rows at coordinates held are ignored.

        Returns the keys whose rows changed, ascending, and the mask of the batch's rows that were added.
        """
        keys = self.keys.intern(identity(self.record, batch))
        added = _rows(keys, batch)
        touched = distinct(keys)
        groups, held = self.rows_of(touched)
        fresh = ~_repeated(
            np.concatenate((touched[groups], keys)),
            np.concatenate((self._partitions.values[held], added.partitions)),
            np.concatenate((self._offsets.values[held], added.offsets)),
        )[len(held) :]
        rows = np.arange(len(self.versions), len(self.versions) + int(fresh.sum()))
        self._append(added, fresh)
        changed = distinct(keys[fresh])
        self._list(changed, keys[fresh], rows)
        self.intervals.set(changed, self._validity(changed))
        return changed, fresh

    def _append(self, rows: _Rows, which: Mask) -> None:
        self.row_keys.append(rows.keys[which])
        self.versions.append(rows.versions[which])
        self._starts.append(rows.starts[which])
        self._ends.append(rows.ends[which])
        self._partitions.append(rows.partitions[which])
        self._offsets.append(rows.offsets[which])
        self._tombstones.append(rows.tombstones[which])
        self._digests.append(np.ascontiguousarray(rows.digests[which]).view("V32").reshape(-1))
        self.count += int((which & ~rows.tombstones).sum())

    def _list(self, changed: Ints, keys: Ints, rows: Ints) -> None:
        """Add rows to the lists of their keys."""
        groups, held = self.rows_of(changed)
        owners = np.concatenate((groups, np.searchsorted(changed, keys)))
        order = np.argsort(owners, kind="stable")
        counts = np.bincount(owners, minlength=len(changed))
        self._lists.set(changed, counts, np.concatenate((held, rows))[order])

    def _validity(self, keys: Ints) -> Segments:
        """The disjoint intervals of these keys, each with the row in force."""
        groups, rows = self.rows_of(keys)
        ends = self._ends.values[rows]
        tombstones = self._tombstones.values[rows]
        if tombstones.any():
            limits = _limits(
                groups, self._partitions.values[rows], self._offsets.values[rows], ends, tombstones
            )
            ends = np.minimum(ends, limits)
            kept = ~tombstones
            groups, rows, ends = groups[kept], rows[kept], ends[kept]
        if (groups[1:] == groups[:-1]).any():
            # Priority: the highest version; should two bear one number, the one with the lowest coordinates.
            partitions, offsets = self._partitions.values[rows], self._offsets.values[rows]
            order = np.lexsort((-offsets, -partitions, self.versions.values[rows], groups))
            groups, rows, ends = groups[order], rows[order], ends[order]
        return flatten(Segments(keys[groups], self._starts.values[rows], ends, rows))


@dataclass(frozen=True)
class _Candidates:
    """Versions held (the first `held` rows) and versions that ask for admission, by key and number."""

    keys: Ints
    versions: Ints
    partitions: Ints
    offsets: Ints
    digests: npt.NDArray[np.uint64]
    held: int

    def judge(self) -> tuple[Mask, Mask]:
        """(fresh, equal to the original) of the rows that are not held."""
        new = np.arange(len(self.keys)) >= self.held
        order = np.lexsort((self.offsets, self.partitions, new, self.versions, self.keys))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(self.keys[order]) != 0) | (self.versions[order][1:] != self.versions[order][:-1])
        original = order[np.flatnonzero(first)[np.cumsum(first) - 1]]
        equal, is_original = np.empty(len(order), bool), np.empty(len(order), bool)
        equal[order] = (self.digests[order] == self.digests[original]).all(axis=1)
        is_original[order] = first
        itself = _repeated(self.keys, self.partitions, self.offsets)
        return (is_original | itself)[self.held :], equal[self.held :]


def _repeated(keys: Ints, partitions: Ints, offsets: Ints) -> Mask:
    """Which rows have the key and the coordinates of an earlier row."""
    order = np.lexsort((offsets, partitions, keys))
    same = np.ones(max(len(order) - 1, 0), bool)
    for column in (keys, partitions, offsets):
        same &= column[order][1:] == column[order][:-1]
    repeated = np.zeros(len(order), bool)
    repeated[order[1:]] = same
    return repeated


def _limits(groups: Ints, partitions: Ints, offsets: Ints, at: Ints, tombstones: Mask) -> Ints:
    """When each row ends: at its key's earliest tombstone in its partition with a higher offset."""
    moments, ranks = np.unique(at[tombstones], return_inverse=True)
    rank = np.full(len(groups), len(moments))
    rank[tombstones] = ranks
    # From the highest offset down, so that a running minimum is over what follows; a new key or partition
    # starts anew because its ranks are lowered below all before.
    order = np.lexsort((-offsets, partitions, groups))
    change = np.ones(len(order), bool)
    change[1:] = (np.diff(groups[order]) != 0) | (np.diff(partitions[order]) != 0)
    lowered = rank[order] - np.cumsum(change) * (len(moments) + 1)
    lowest = np.minimum.accumulate(lowered) + np.cumsum(change) * (len(moments) + 1)
    limits = np.empty(len(order), np.int64)
    limits[order] = np.append(moments, FOREVER)[lowest]
    return limits
