"""What a record is: its named fields, their types, and the Arrow schema that holds them.

The contract's tables are written down once, as `Record` values in `events.py` and `reference.py`;
decoders, mappings, lake tables and documentation all read them from there.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
MAX_BYTES = 1 << 20  # a larger payload is rejected as too_large
MAX_DEPTH = 1024  # the record's own object counts as one


class Type(StrEnum):
    """The value classes of the contract's *Values* paragraph."""

    STRING = "string"
    INT = "int"
    NUMBER = "number"
    BOOL = "bool"
    TIME = "time"  # UTC microseconds
    DATE = "date"  # YYYY-MM-DD
    STRINGS = "strings"  # list of strings
    OBJECTS = "objects"  # list of objects with `Field.fields`


_ARROW: dict[Type, pa.DataType] = {
    Type.STRING: pa.string(),
    Type.INT: pa.int64(),
    Type.NUMBER: pa.float64(),
    Type.BOOL: pa.bool_(),
    Type.TIME: TIME,
    Type.DATE: pa.date32(),
    Type.STRINGS: pa.list_(pa.string()),
}


@dataclass(frozen=True)
class Field:
    """One named field. `minimum` bounds an int from below; `fields` are those of an object list's items."""

    name: str
    type: Type = Type.STRING
    required: bool = False
    enum: tuple[str, ...] = ()
    minimum: int | None = None
    fields: tuple["Field", ...] = ()

    @cached_property
    def arrow(self) -> pa.Field:
        """The Arrow field; always nullable, since required fields are enforced by the decoders."""
        if self.type is Type.OBJECTS:
            return pa.field(self.name, pa.list_(pa.struct([inner.arrow for inner in self.fields])))
        return pa.field(self.name, _ARROW[self.type])


@dataclass(frozen=True)
class Record:
    """One kind of record: a stream's event, or a version of a reference thing.

    `key` names the id fields of a reference record, in the order its message key joins them with `|`;
    it is empty for events.
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        return f"custody.{self.name}"

    @property
    def is_event(self) -> bool:
        return not self.key

    @cached_property
    def schema(self) -> pa.Schema:
        """The decoded columns, in the order of the contract's tables."""
        return pa.schema([field.arrow for field in self.fields])

    @cached_property
    def by_name(self) -> dict[str, Field]:
        return {field.name: field for field in self.fields}
