"""The statements of the Flink job: sources, versioned tables, temporal joins, rules and sinks.

As Flink's documentation teaches: Kafka sources with watermarks, versioned tables over compacted topics,
event-time temporal joins (`FOR SYSTEM_TIME AS OF`), the filesystem connector with Parquet.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmarks.peers.flink_rules import Rules, rules, serial_rules
from schemas.events import EVENTS
from schemas.record import Field, Record, Type
from schemas.reference import ASSET, AUTHORIZATION, PARTY, PRINCIPAL, SITE

LATEST = "'scan.bounded.mode' = 'latest-offset'"
NOTHING = "'scan.bounded.mode' = 'timestamp', 'scan.bounded.timestamp-millis' = '0'"
"""Where reading ends: at what is there now, or at the start."""

_TYPES = {
    Type.STRING: "STRING",
    Type.INT: "BIGINT",
    Type.NUMBER: "DOUBLE",
    Type.BOOL: "BOOLEAN",
    Type.TIME: "TIMESTAMP_LTZ(3)",
    Type.DATE: "DATE",
    Type.STRINGS: "ARRAY<STRING>",
}
_JSON = "'json.timestamp-format.standard' = 'ISO-8601'"
_PLACE = "`partition` INT, `offset` BIGINT, broker_time TIMESTAMP_LTZ(3)"
_JOINED = {
    "party": ("party_id", "p", ("status", "hq_country", "parent_hq_country", "screening_disposition",
              "brokers", "review_due_at", "screened_at")),
    "authorization": ("authorization_id", "a", ("party_ids", "models", "site_ids", "methods",
                      "remote_countries", "conditions")),
    "site": ("site_id", "s", ()),
}  # fmt: skip
"""Versioned table → its id, the prefix of its columns in the joined event, and which are taken along."""
_FINDING = (
    "finding_id STRING, rule_id STRING, subject STRING, party_id STRING, allocation_id STRING, "
    "source STRING, event_id STRING, topic STRING, `partition` INT, `offset` BIGINT, "
    "occurred_at TIMESTAMP_LTZ(3)"
)


def tables(brokers: str, topics: Mapping[str, str], folder: Path, until: str = LATEST) -> list[str]:
    """The statements that create everything that `inserts` names.

    `topics` are those of the events by record name, `until` where reading them ends.
    """
    made = [_versioned(record, brokers) for record in (PARTY, AUTHORIZATION, SITE, ASSET)]
    made += _bindings(brokers)
    made.append(_sink("finding_event", _FINDING, folder))
    for record in EVENTS.values():
        made += [
            _source(record, brokers, topics[record.name], until),
            *_joins(record.name),
            _judged(record.name),
        ]
        made.append(_sink(record.name, _typed(record), folder))
        if "serials" in record.by_name:
            made.append(_serials(record.name))
    return made


def inserts() -> list[str]:
    """The statements of the one job."""
    made = []
    for record in EVENTS.values():
        name, columns = record.name, ", ".join(_quoted(f.name) for f in record.fields if f.name != "party_id")
        made.append(
            f"INSERT INTO {name} SELECT {columns}, `partition`, `offset`, broker_time, party_id, party, "
            f"party_version, authorization_version, site_version, verdicts FROM {name}_judged"
        )
        made.append(_found(name, f"{name}_judged", rules(name)))
        if "serials" in record.by_name:
            made.append(_found(name, f"{name}_serials", serial_rules(name)))
    return [*made, _overdue()]


def _source(record: Record, brokers: str, topic: str, until: str) -> str:
    return (
        f"CREATE TABLE {record.name}_in ({_columns(record.fields)}, "
        "`partition` INT METADATA VIRTUAL, `offset` BIGINT METADATA VIRTUAL, "
        "broker_time TIMESTAMP_LTZ(3) METADATA FROM 'timestamp' VIRTUAL, "
        "WATERMARK FOR occurred_at AS occurred_at - INTERVAL '10' MINUTE) WITH "
        f"('connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{brokers}', "
        f"'scan.startup.mode' = 'earliest-offset', {until}, 'format' = 'json', {_JSON})"
    )


def _versioned(record: Record, brokers: str) -> str:
    """The watermark of versions stays behind until all are read: no event is joined before."""
    (key,) = record.key
    return (
        f"CREATE TABLE `{record.name}_in` ({_columns(record.fields)}, PRIMARY KEY ({key}) NOT ENFORCED, "
        "WATERMARK FOR valid_from AS valid_from - INTERVAL '20' YEAR) WITH "
        f"('connector' = 'upsert-kafka', 'topic' = '{record.topic}', {LATEST}, "
        f"'properties.bootstrap.servers' = '{brokers}', 'key.format' = 'raw', 'value.format' = 'json', "
        f"'value.fields-include' = 'EXCEPT_KEY', 'value.{_JSON[1:]})"
    )


def _bindings(brokers: str) -> list[str]:
    """Bindings by principal: a versioned view, which holds one binding of a principal at a time."""
    source = (
        f"CREATE TABLE principal_in ({_columns(PRINCIPAL.fields)}, "
        "WATERMARK FOR valid_from AS valid_from - INTERVAL '20' YEAR) WITH "
        f"('connector' = 'kafka', 'topic' = '{PRINCIPAL.topic}', {LATEST}, "
        f"'properties.bootstrap.servers' = '{brokers}', 'scan.startup.mode' = 'earliest-offset', "
        f"'format' = 'json', {_JSON})"
    )
    view = (
        "CREATE VIEW bindings AS SELECT principal, party_id, valid_from, valid_to FROM "
        "(SELECT *, ROW_NUMBER() OVER (PARTITION BY principal ORDER BY valid_from DESC) AS place "
        "FROM principal_in) WHERE place = 1"
    )
    return [source, view]


def _joins(stream: str) -> list[str]:
    """The event with the party it leads to, then with each version in force."""
    made = [
        f"CREATE VIEW {stream}_1 AS SELECT e.*, COALESCE(e.party_id, v.party_id) AS named "
        f"FROM {stream}_in AS e {_as_of('bindings', 'e.principal = v.principal')}"
    ]
    for number, (table, (key, prefix, columns)) in enumerate(_JOINED.items(), 1):
        own = "named" if table == "party" else key
        taken = [f"v.`{column}` AS {prefix}_{column}" for column in columns]
        taken.append(f"v.version AS {table}_version")
        if table == "party":
            taken.append("v.party_id AS party")
        made.append(
            f"CREATE VIEW {stream}_{number + 1} AS SELECT e.*, {', '.join(taken)} "
            f"FROM {stream}_{number} AS e {_as_of(f'`{table}_in`', f'e.{own} = v.{key}')}"
        )
    return made


def _as_of(table: str, on: str) -> str:
    """Flink takes the version that began last; whether it has ended is asked besides."""
    return (
        f"LEFT JOIN {table} FOR SYSTEM_TIME AS OF e.occurred_at AS v "
        f"ON {on} AND (v.valid_to IS NULL OR e.occurred_at < v.valid_to)"
    )


def _judged(stream: str) -> str:
    fired = [f"CASE WHEN {condition} THEN '{rule}' END" for rule, (condition, _) in rules(stream).items()]
    joined = f"{stream}_{len(_JOINED) + 1}"
    return f"CREATE VIEW {stream}_judged AS SELECT *, {_array(fired)} AS verdicts FROM {joined}"


def _serials(stream: str) -> str:
    columns = ", ".join(f"v.{name} AS x_{name}" for name in ("site_id", "status", "model"))
    return (
        f"CREATE VIEW {stream}_serials AS SELECT e.*, {columns}, v.version AS asset_version FROM "
        f"(SELECT i.*, CAST(NULL AS STRING) AS party, serial FROM {stream}_in AS i "
        f"CROSS JOIN UNNEST(serials) AS s (serial)) AS e {_as_of('asset_in', 'e.serial = v.serial')}"
    )


def _found(stream: str, view: str, asked: Rules) -> str:
    """Rule and subject travel as one text, since UNNEST takes an array of texts."""
    texts = [f"CASE WHEN {when} THEN '{rule}~' || {subject} END" for rule, (when, subject) in asked.items()]
    rule, subject = "SPLIT_INDEX(f.fired, '~', 0)", "SPLIT_INDEX(f.fired, '~', 1)"
    return (
        f"INSERT INTO finding_event SELECT {_finding(stream, rule, subject)} FROM {view} "
        f"CROSS JOIN UNNEST({_array(texts)}) AS f (fired)"
    )


def _overdue() -> str:
    """Each condition of the authorization of an allocation."""
    subject = "'authorization:' || authorization_id || '|condition:' || COALESCE(condition_id, '')"
    finding = _finding("allocation", "'gap.authorization.condition_overdue'", subject)
    return (
        f"INSERT INTO finding_event SELECT {finding} FROM allocation_judged "
        "CROSS JOIN UNNEST(a_conditions) AS c (condition_id, due_at, met_at) WHERE action = 'allocated' "
        "AND due_at < occurred_at AND (met_at IS NULL OR met_at > occurred_at)"
    )


def _finding(stream: str, rule: str, subject: str) -> str:
    return (
        f"SUBSTRING(SHA256({rule} || U&'\\000A' || {subject}) FROM 1 FOR 32), {rule}, {subject}, party, "
        f"allocation_id, source, event_id, 'custody.{stream}', `partition`, `offset`, occurred_at"
    )


def _array(texts: Iterable[str]) -> str:
    return f"ARRAY_REMOVE(ARRAY[{', '.join(texts)}], CAST(NULL AS STRING))"


def _sink(name: str, columns: str, folder: Path) -> str:
    return (
        f"CREATE TABLE {name} ({columns}) WITH ('connector' = 'filesystem', "
        f"'path' = 'file://{folder}/{name}', 'format' = 'parquet', "
        "'parquet.compression' = 'ZSTD', 'parquet.write.int64.timestamp' = 'true')"
    )


def _typed(record: Record) -> str:
    fields = _columns(field for field in record.fields if field.name != "party_id")
    return (
        f"{fields}, {_PLACE}, party_id_sent STRING, party_id STRING, party_version BIGINT, "
        "authorization_version BIGINT, site_version BIGINT, verdicts ARRAY<STRING>"
    )


def _columns(fields: Iterable[Field]) -> str:
    return ", ".join(f"{_quoted(field.name)} {_type(field)}" for field in fields)


def _type(field: Field) -> str:
    return f"ARRAY<ROW<{_columns(field.fields)}>>" if field.type is Type.OBJECTS else _TYPES[field.type]


def _quoted(name: str) -> str:
    return f"`{name}`"
