"""views.sql: the lake in DuckDB alone, without an extension or a line of this project's code.

For each table the script asks the Delta log for the live files (newest checkpoint, then the entries after it)
and puts them into a variable; the views read the files in that variable. Running the script again sees what
was landed since.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import SekishoError
from schemas.events import EVENTS
from schemas.record import Record
from schemas.reference import REFERENCES
from schemas.tables import RAW, TABLES
from sinks import settled_views
from sinks.durable import make_folder, replace, told

FILE = "views.sql"
EMPTY = "_empty"
"""Folder of one Parquet file a table without rows, and of an empty checkpoint: DuckDB cannot read no file."""

_CHECKPOINT = pa.schema(
    [
        pa.field(
            "add",
            pa.struct([("path", pa.string()), ("modificationTime", pa.int64()), ("stats", pa.string())]),
        ),
        pa.field("remove", pa.struct([("path", pa.string())])),
    ]
)

_HEAD = """\
-- The lake's views, for DuckDB (1.4 or newer, its Python module or its shell). Written by sekisho.
--   in the shell:  .read views.sql        then:  FROM finding ORDER BY last_at DESC;
-- Run it again to see what was landed since. If the lake was moved, change the next line.
SET VARIABLE lake = {lake};

SET TimeZone = 'UTC';
-- Characters that glob() would take for wildcards stand in brackets.
SET VARIABLE lake_pattern = regexp_replace(getvariable('lake'), '([\\[*?])', '[\\1]', 'g');
"""

_FILES = """
-- {table}: the newest checkpoint, the log's entries from there on, and the files that are live by both
SET VARIABLE {table}_checkpoint = coalesce(
  (SELECT max(file) FROM glob(getvariable('lake_pattern') || '/{table}/_delta_log/*.checkpoint.parquet')),
  getvariable('lake') || '/{empty}/checkpoint.parquet');
SET VARIABLE {table}_log = (
  SELECT list(file) FROM glob(getvariable('lake_pattern') || '/{table}/_delta_log/*.json')
  WHERE parse_filename(file) >= parse_filename(getvariable('{table}_checkpoint'))[:20]
     OR parse_filename(getvariable('{table}_checkpoint')) = 'checkpoint.parquet');
SET VARIABLE {table}_files = (
  SELECT coalesce(
    list(getvariable('lake') || '/{table}/' || url_decode(path) ORDER BY made, path),
    [getvariable('lake') || '/{empty}/{table}.parquet'])
  FROM (
    SELECT path, max(made) AS made FROM (
      SELECT add.path AS path, add.modificationTime AS made, '' AS entry, true AS live
      FROM read_parquet(getvariable('{table}_checkpoint'), hive_partitioning = false)
      WHERE add.path IS NOT NULL
      UNION ALL
      SELECT coalesce(add.path, remove.path), add.modificationTime, parse_filename(filename),
        add.path IS NOT NULL
      FROM read_json(getvariable('{table}_log'), format = 'newline_delimited', filename = true,
        hive_partitioning = false, columns = {{
          add: 'STRUCT(path VARCHAR, modificationTime BIGINT)', remove: 'STRUCT(path VARCHAR)'}})
      WHERE add.path IS NOT NULL OR remove.path IS NOT NULL)
    GROUP BY path HAVING arg_max(live, entry)));
"""

_FROM = "read_parquet(getvariable('{table}_files'), filename = true, hive_partitioning = false)"
_DT = "TRY_CAST(regexp_extract(filename, 'dt=([0-9-]{10})/[^/]*$', 1) AS DATE) AS dt"

_DEAD_LETTER = """
CREATE OR REPLACE VIEW dead_letter AS
SELECT topic, topic_id, "partition", "offset", broker_time, reason, "key", headers, "value" AS payload,
  ingested_at, dt
FROM raw WHERE disposition = 'rejected';
"""

_SETTLED = ("watermark", "finding_history", "finding_event", "duplicate", "coverage", "triage")
"""Read before all others, `watermark` first: see `sinks/settled_views.py`."""


def views_sql(lake: Path) -> str:
    """The script for the lake in folder `lake` (an absolute path)."""
    # Derived tables first, raw last: a batch landed in between never shows in them without its evidence.
    tables = [*_SETTLED, *(table for table in TABLES if table not in ("raw", *_SETTLED)), "raw"]
    parts = [_HEAD.format(lake=_text(str(lake)))]
    parts += [_FILES.format(table=table, empty=EMPTY) for table in tables]
    parts += [settled_views.SETTLED.format(), _view("raw", RAW), _DEAD_LETTER]
    parts += [_view(table, TABLES[table]) for table in ("watermark", "triage")]
    parts.append(_view("finding_history", TABLES["finding_history"], f"\nWHERE {settled_views.STEP}"))
    parts += [
        _settled_view("duplicate", settled_views.DUPLICATE),
        _settled_view("finding_event", settled_views.FINDING_EVENT),
        _settled_view("finding_event", settled_views.FINDING),
        _settled_view("coverage", settled_views.COVERAGE),
    ]
    for record in EVENTS.values():
        without = settled_views.WITHOUT_DUPLICATES.format(topic=_text(record.topic))
        parts.append(_view(record.name, TABLES[record.name], without))
    parts += [_reference_view(record, TABLES[record.name]) for record in REFERENCES.values()]
    return "".join(parts)


def connect(lake: str | Path) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the lake's views as of now, which can reach no file outside the lake.

    It could still overwrite files inside: hand it no statement of others but SELECT. Raises SekishoError
    where there is no lake or its log is damaged.
    """
    folder = Path(lake).absolute()
    if not (folder / "raw" / "_delta_log").is_dir():
        raise SekishoError(f"no lake in {folder}: give the folder that a worker or a scan has written")
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET enable_progress_bar = false")  # it goes to standard output
        connection.execute(views_sql(folder))
        connection.execute(f"SET allowed_directories = [{_text(str(folder))}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
    except duckdb.Error as error:
        line = str(error).partition("\n")[0]
        raise SekishoError(
            f"cannot read the lake in {folder}: {line}; start a worker, which repairs a torn log, "
            "or restore the file from a copy"
        ) from error
    return connection


@contextmanager
def reading(lake: str | Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """`connect` for a block, in which a file that cannot be read raises SekishoError."""
    with closing(connect(lake)) as connection:
        try:
            yield connection
        except duckdb.Error as error:
            line = str(error).partition("\n")[0]
            raise SekishoError(
                f"cannot read the lake in {lake}: {line}; restore the file from a copy"
            ) from error


def write(lake: Path) -> None:
    """Writes views.sql, and the empty files it falls back on, where they differ from this version's."""
    make_folder(lake / EMPTY)
    contents = {lake / EMPTY / f"{table}.parquet": _empty(schema) for table, schema in TABLES.items()}
    contents[lake / EMPTY / "checkpoint.parquet"] = _empty(_CHECKPOINT)
    contents[lake / FILE] = views_sql(lake).encode()
    for path, content in contents.items():
        with told(path):
            current = path.read_bytes() if path.is_file() else None
        if current != content:
            replace(path, content)


def _empty(schema: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink, store_schema=False)
    return sink.getvalue().to_pybytes()


def _view(table: str, schema: pa.Schema, rest: str = "") -> str:
    return (
        f'\nCREATE OR REPLACE VIEW "{table}" AS\n'
        f"SELECT {_columns(schema)}\nFROM {_FROM.format(table=table)}{rest};\n"
    )


def _settled_view(table: str, template: str) -> str:
    return template.format(
        columns=_columns(TABLES[table]),
        source=_FROM.format(table=table),
        coordinates=settled_views.COORDINATES,
        step=settled_views.STEP,
    )


def _reference_view(record: Record, schema: pa.Schema) -> str:
    key = ", ".join(_name(part) for part in record.key)
    return (
        f'\nCREATE OR REPLACE VIEW "{record.name}" AS\n'
        f"SELECT {_columns(schema)},\n"
        "  CASE WHEN version IS NOT NULL THEN min(tombstone_at) OVER (\n"
        f'    PARTITION BY {key}, topic, "partition" ORDER BY "offset"\n'
        "    ROWS BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING) END AS ended_at\n"
        f"FROM {_FROM.format(table=record.name)};\n"
    )


def _columns(schema: pa.Schema) -> str:
    """The contract has ints as BIGINT; files keep partitions in 32 bits."""
    columns = (
        f"{_name(field.name)}::BIGINT AS {_name(field.name)}"
        if pa.types.is_int32(field.type)
        else _name(field.name)
        for field in schema
    )
    return ", ".join([*columns, _DT])


def _name(name: str) -> str:
    return f'"{name}"'


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
