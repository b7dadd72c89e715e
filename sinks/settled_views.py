"""The views of what the reconciler settles, and of what workers landed before it came to that.

They show whole steps only, up to the variable `settled_step`: `watermark` is committed last, so that whoever
sees a step there sees all of it.
"""

SETTLED = """
-- The last step of the reconciler that is there whole, from the file that the log says has the greatest step
SET VARIABLE settled_files = coalesce((
  SELECT list(file) FROM (
    SELECT getvariable('lake') || '/watermark/' || url_decode(path) AS file, max(step) AS step FROM (
      SELECT add.path AS path, TRY_CAST(add.stats::JSON ->> '$.maxValues.step' AS BIGINT) AS step
      FROM read_parquet(getvariable('watermark_checkpoint'), hive_partitioning = false)
      UNION ALL
      SELECT add.path, TRY_CAST(add.stats::JSON ->> '$.maxValues.step' AS BIGINT)
      FROM read_json(getvariable('watermark_log'), format = 'newline_delimited', hive_partitioning = false,
        columns = {{add: 'STRUCT(path VARCHAR, stats VARCHAR)'}}))
    WHERE list_contains(getvariable('watermark_files'), file)
    GROUP BY path QUALIFY max(step) = max(max(step)) OVER ())),
  getvariable('watermark_files'));
SET VARIABLE settled_step = (
  SELECT coalesce(max(step), 0) FROM read_parquet(getvariable('settled_files'), hive_partitioning = false));
SET VARIABLE settled_watermark = (
  SELECT max(watermark) FROM read_parquet(getvariable('settled_files'), hive_partitioning = false));
"""

STEP = "step <= getvariable('settled_step')::BIGINT"
"""The condition on rows of the reconciler; `step` is null in what workers wrote."""

COORDINATES = 'topic, "partition", "offset"'

DUPLICATE = """
-- One row a duplicate; a lower original may have arrived later.
CREATE OR REPLACE VIEW duplicate AS
SELECT {columns}
FROM {source}
WHERE {step}
QUALIFY row_number() OVER (PARTITION BY {coordinates} ORDER BY step DESC) = 1;
"""

WITHOUT_DUPLICATES = """
ANTI JOIN (SELECT "partition", "offset" FROM duplicate WHERE topic = {topic}) USING ("partition", "offset")"""
"""Of an event table, whose rows all have one topic."""

FINDING_EVENT = """
-- The latest state of each event of each finding.
CREATE OR REPLACE VIEW finding_event AS
SELECT {columns}
FROM {source}
ANTI JOIN (SELECT {coordinates} FROM duplicate) USING ({coordinates})
WHERE step IS NULL OR {step}
QUALIFY row_number() OVER (
  PARTITION BY finding_id, {coordinates} ORDER BY step DESC NULLS LAST, ingested_at DESC) = 1;
"""

FINDING = """
-- The latest revision of each finding; those the reconciler has not come to yet as their events make them.
CREATE OR REPLACE VIEW finding AS
WITH settled AS (
  SELECT * EXCLUDE (step, ingested_at, dt) FROM finding_history
  QUALIFY row_number() OVER (PARTITION BY finding_id ORDER BY revision DESC, step DESC) = 1
),
event AS (
  SELECT *, min(ingested_at) OVER (PARTITION BY finding_id, {coordinates}) AS first_ingested_at
  FROM {source}
  ANTI JOIN (SELECT {coordinates} FROM duplicate) USING ({coordinates})
  ANTI JOIN (SELECT finding_id FROM settled) USING (finding_id)
  WHERE step IS NULL OR {step}
  QUALIFY row_number() OVER (
    PARTITION BY finding_id, {coordinates} ORDER BY step DESC NULLS LAST, ingested_at DESC) = 1
),
landed AS (
  SELECT
    finding_id,
    min(rule_id) AS rule_id,
    arg_max(rule_sha256, ingested_at) AS rule_sha256,
    split_part(min(rule_id), '.', 1) AS kind,
    arg_max(severity, ingested_at) AS severity,
    split_part(min(rule_id), '.', 2) AS link,
    min(subject) AS subject,
    CASE WHEN count(party_id) = count(*) AND min(party_id) = max(party_id) THEN min(party_id) END AS party_id,
    CASE WHEN count(allocation_id) = count(*) AND min(allocation_id) = max(allocation_id)
      THEN min(allocation_id) END AS allocation_id,
    min(occurred_at) AS first_at,
    max(occurred_at) AS last_at,
    count(*) AS events,
    min(first_ingested_at) AS detected_at,
    0::BIGINT AS revision,
    arg_max(state, ingested_at) AS state,
    NULL::BIGINT AS supersedes,
    arg_max(message, ROW(ingested_at, {coordinates})) AS message,
    list({{topic: topic, "partition": "partition", "offset": "offset", event_id: event_id}}
      ORDER BY {coordinates})[:100] AS evidence,
    NULL::STRUCT(topic VARCHAR, "partition" INTEGER, "offset" BIGINT)[] AS known,
    false AS suppressed
  FROM event
  WHERE state <> 'withdrawn'
  GROUP BY finding_id
),
triaged AS (
  SELECT finding_id, arg_max(state, ROW("at", ingested_at)) AS triage FROM triage GROUP BY finding_id
)
SELECT * FROM (SELECT * FROM settled UNION ALL BY NAME SELECT * FROM landed)
LEFT JOIN triaged USING (finding_id);
"""

COVERAGE = """
-- The pieces in force: without those that a later step has made void; open ones run to what later steps
-- wrote, else to the watermark.
CREATE OR REPLACE VIEW coverage AS
WITH written AS (
  SELECT {columns}, min(replaces_from) OVER later AS void_from, min(from_at) OVER later AS next_at
  FROM {source}
  WHERE {step}
  WINDOW later AS (
    PARTITION BY allocation_id ORDER BY step RANGE BETWEEN 1 FOLLOWING AND UNBOUNDED FOLLOWING)
),
piece AS (
  SELECT * EXCLUDE (void_from, next_at) REPLACE (
    CASE WHEN open THEN coalesce(next_at, getvariable('settled_watermark')::TIMESTAMPTZ) ELSE to_at END
      AS to_at)
  FROM written
  WHERE from_at IS NOT NULL AND (void_from IS NULL OR from_at < void_from)
)
FROM piece WHERE from_at < to_at;
"""
