"""128-bit fingerprints of events: of their id, and of all their named fields as decoded.

Each is the MD5 of bytes that only these values give, behind a secret of the state's own: a sender who does
not know it cannot make two records look like one. The bytes rest on what UTF-8 never contains: 0xFF ends a
text, 0xFE stands for null, 0xFD ends an item of a list. Texts come first, then numbers of a fixed width.
"""

import secrets
from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from schemas.record import Field, Record, Type

Prints = npt.NDArray[np.uint64]  # two words per event

_BYTES = pa.large_binary()
_END, _ITEM = pa.scalar(b"\xff", _BYTES), pa.scalar(b"\xfd", _BYTES)
_NULL = b"\xfe"
_DIGEST = "SELECT place, md5_number(?::BLOB || value) AS digest FROM fingerprint_input"
_ROWS = 1 << 16  # at a time
_WIDTH = 9  # bytes of a number: 8 and one that is 1 for null


def create(con: duckdb.DuckDBPyConnection) -> None:
    """Makes the secret where it is missing."""
    con.execute("CREATE TABLE IF NOT EXISTS fingerprint_secret (secret BLOB)")
    if con.execute("SELECT count(*) FROM fingerprint_secret").fetchall() == [(0,)]:
        con.execute("INSERT INTO fingerprint_secret VALUES (?)", [secrets.token_bytes(16)])


def identities(con: duckdb.DuckDBPyConnection, events: pa.Table) -> Prints:
    """The fingerprint of each event's (source, event_id)."""
    parts = [
        pc.binary_join_element_wise(_bytes(batch["source"]), _bytes(batch["event_id"]), _END)
        for batch in events.select(["source", "event_id"]).to_batches(_ROWS)
    ]
    return _digests(con, parts)


def contents(con: duckdb.DuckDBPyConnection, record: Record, events: pa.Table) -> Prints:
    """The fingerprint of each event's stream and fields (the columns `record.schema`).

    Equal where all fields are; an empty list is null, the order of a list counts.
    """
    stream = pa.scalar(record.name.encode(), _BYTES)
    parts = []
    for batch in events.select(record.schema.names).to_batches(_ROWS):
        texts = [_text(field, batch[field.name]) for field in record.fields if _is_text(field)]
        numbers = [batch[field.name] for field in record.fields if not _is_text(field)]
        parts.append(
            pc.binary_join_element_wise(
                stream, *texts, _fixed(numbers), _END, null_handling="replace", null_replacement=_NULL
            )
        )
    return _digests(con, parts)


def _is_text(field: Field) -> bool:
    assert field.type is not Type.NUMBER and field.type is not Type.OBJECTS, "no event has such a field"
    return field.type in (Type.STRING, Type.STRINGS)


def _bytes(column: pa.Array) -> pa.Array:
    return column.cast(_BYTES)


def _text(field: Field, column: pa.Array) -> pa.Array:
    """The bytes of a text or of a list of texts, null for null and for an empty list."""
    if field.type is Type.STRING:
        return _bytes(column)
    items = column.cast(pa.list_(_BYTES))
    return pc.if_else(pc.equal(pc.list_value_length(column), 0), None, pc.binary_join(items, _ITEM))


def _fixed(columns: Sequence[pa.Array]) -> pa.Array:
    """Times, ints and bools side by side, each in `_WIDTH` bytes."""
    count = len(columns[0])
    cells = np.zeros((count, len(columns) * _WIDTH), np.uint8)
    for index, column in enumerate(columns):
        cell = cells[:, index * _WIDTH : (index + 1) * _WIDTH]
        values = column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column.cast(pa.int64())
        values = values.fill_null(0).to_numpy(zero_copy_only=False).astype("<i8", copy=False)
        cell[:, :8] = np.ascontiguousarray(values).view(np.uint8).reshape(count, 8)
        cell[:, 8] = column.is_null().to_numpy(zero_copy_only=False)
    width = pa.binary(cells.shape[1])
    return _bytes(pa.FixedSizeBinaryArray.from_buffers(width, count, [None, pa.py_buffer(cells)]))


def _digests(con: duckdb.DuckDBPyConnection, parts: Sequence[pa.Array]) -> Prints:
    """The MD5 of the secret and each value, as two words."""
    secret = con.execute("SELECT secret FROM fingerprint_secret").fetchall()[0][0]
    words = [np.empty((0, 2), np.uint64)]
    for part in filter(len, parts):
        place = np.arange(len(part))
        con.register("fingerprint_input", pa.table([place, part], ["place", "value"]))
        found = con.sql(_DIGEST, params=[secret])
        digests = found.to_arrow_table().combine_chunks()
        con.unregister("fingerprint_input")
        ordered = np.empty((len(part), 2), np.uint64)
        ordered[digests[0].to_numpy()] = _words(digests[1].chunk(0))
        words.append(ordered)
    return np.concatenate(words)


def _words(digests: pa.Array) -> Prints:
    """128-bit integers, two words each."""
    flat = np.frombuffer(digests.buffers()[1], "<u8")
    return flat[2 * digests.offset : 2 * (digests.offset + len(digests))].reshape(-1, 2)
