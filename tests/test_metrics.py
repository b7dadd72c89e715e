"""What is exported, and above all what is not: identities, partitions, open-ended labels."""

import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from rules.reconciler.given import StepOutput
from schemas.errors import SekishoError
from schemas.events import ACCESS, EVENTS
from schemas.reference import PARTY, REFERENCES, SOURCE
from sinks.metrics import OTHER, RECORDS, SEVERITIES, Exporter, Metrics, reasons
from sinks.reconciler_metrics import MOST_SITES, ReconcilerMetrics

Sample = tuple[str, tuple[tuple[str, str], ...], float]


def samples(metrics: Exporter) -> Iterator[Sample]:
    for family in metrics.registry.collect():
        for sample in family.samples:
            yield sample.name, tuple(sorted(sample.labels.items())), sample.value


def value(metrics: Exporter, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def test_reasons_follow_the_contract() -> None:
    assert reasons(SOURCE) == (
        *("too_large", "tombstone", "not_json", "not_object"),
        *("missing:source", "missing:version", "missing:valid_from"),
        *("type:source", "type:version", "type:valid_from", "type:valid_to"),
        *("type:streams", "type:site_id", "type:realm", "type:silence_limit_s", "type:sequenced"),
        *("key", "version_conflict"),
    )
    assert "enum:status" in reasons(PARTY)
    assert "version_conflict" not in reasons(ACCESS)
    assert "missing:allocation_id" not in reasons(ACCESS)


def test_counters_stand_at_zero_before_the_first_record() -> None:
    metrics = Metrics(rules=[("gap.identity.unknown", "high")])
    for topic, record in RECORDS.items():
        assert value(metrics, "custody_events_read_total", topic=topic) == 0
        assert value(metrics, "custody_events_landed_total", topic=topic) == 0
        for reason in reasons(record):
            assert value(metrics, "custody_events_rejected_total", topic=topic, reason=reason) == 0
    assert value(metrics, "custody_findings_total", rule="gap.identity.unknown", severity="high") == 0
    assert value(metrics, "custody_reference_versions", stream="party") == 0
    assert value(metrics, "custody_reference_newest_timestamp_seconds", stream="party") is None


def test_what_is_told_is_exported() -> None:
    metrics = Metrics()
    metrics.read("custody.access", 5)
    metrics.read("custody.access", 2)
    metrics.landed("custody.access", 6)
    metrics.rejected("custody.access", "type:mfa", 2)
    metrics.duplicates("custody.party", 3)
    metrics.found("flag.identity.restricted_hq", "critical", 4)
    metrics.batch(0.02)
    metrics.commit(0.3)
    metrics.committed(1_772_323_200.5)
    metrics.offsets(read=1000, landed=900, end=1500)
    metrics.references("party", 12, 1_772_000_000.0)
    assert value(metrics, "custody_events_read_total", topic="custody.access") == 7
    assert value(metrics, "custody_events_landed_total", topic="custody.access") == 6
    assert value(metrics, "custody_events_rejected_total", topic="custody.access", reason="type:mfa") == 2
    assert value(metrics, "custody_reference_duplicates_total", topic="custody.party") == 3
    found = {"rule": "flag.identity.restricted_hq", "severity": "critical"}
    assert value(metrics, "custody_findings_total", **found) == 4
    assert value(metrics, "custody_batch_seconds_bucket", le="0.025") == 1
    assert value(metrics, "custody_batch_seconds_bucket", le="0.01") == 0
    assert value(metrics, "custody_commit_seconds_sum") == pytest.approx(0.3)
    assert value(metrics, "custody_last_commit_timestamp_seconds") == 1_772_323_200.5
    assert value(metrics, "custody_offsets_read") == 1000
    assert value(metrics, "custody_offsets_landed") == 900
    assert value(metrics, "custody_offsets_end") == 1500
    assert value(metrics, "custody_reference_versions", stream="party") == 12
    assert value(metrics, "custody_reference_newest_timestamp_seconds", stream="party") == 1_772_000_000.0


def test_the_end_offset_is_never_behind_what_was_read() -> None:
    metrics = Metrics()
    metrics.offsets(read=10, landed=4)
    assert value(metrics, "custody_offsets_end") == 10
    metrics.offsets(read=10, landed=4, end=8)  # a high watermark fetched before the last batch
    assert value(metrics, "custody_offsets_end") == 10


@given(st.lists(st.tuples(st.text(), st.text(), st.text()), max_size=20))
def test_no_label_carries_what_a_record_says(told: list[tuple[str, str, str]]) -> None:
    """Whatever text reaches the metrics, label values stay within the closed sets."""
    metrics = Metrics()
    for one, two, three in told:
        metrics.read(one, 1)
        metrics.landed(one, 1)
        metrics.rejected(one, two, 1)
        metrics.rejected("custody.access", two, 1)
        metrics.duplicates(one, 1)
        metrics.found(two, three, 1)
        metrics.references(three, 1, 1.0)
    rule = re.compile(r"(gap|flag)\.[a-z0-9_.]+")
    allowed = {
        "topic": {*RECORDS, OTHER},
        "reason": {OTHER, *(reason for record in RECORDS.values() for reason in reasons(record))},
        "severity": {*SEVERITIES, OTHER},
        "stream": {OTHER, *(record.name for record in REFERENCES.values())},
    }
    for name, labels, _ in samples(metrics):
        for label, text in labels:
            if label in ("le", "version", "python"):
                continue
            if label == "rule":
                assert text == OTHER or rule.fullmatch(text)
            else:
                assert text in allowed[label], (name, label)


@pytest.mark.parametrize(
    "identity", ["P-1", "corp:alice", "GPU-4f1c", "authorization_id", "custody.access-0"]
)
def test_identities_and_partitions_become_other(identity: str) -> None:
    metrics = Metrics()
    metrics.read(identity, 1)
    metrics.rejected("custody.access", f"type:{identity}", 1)
    metrics.found(identity, "high", 1)
    metrics.references(identity, 1, None)
    assert value(metrics, "custody_events_read_total", topic=OTHER) == 1
    assert value(metrics, "custody_findings_total", rule=OTHER, severity="high") == 1
    assert value(metrics, "custody_reference_versions", stream=OTHER) == 1
    exported = {text for _, labels, _ in samples(metrics) for _, text in labels}
    assert identity not in exported


def test_no_metric_has_a_label_for_identities_or_partitions() -> None:
    metrics = Metrics(rules=[("gap.identity.unknown", "high")])
    labels = {label for _, pairs, _ in samples(metrics) for label, _ in pairs}
    closed = {"topic", "reason", "rule", "severity", "stream", "le", "version", "python"}
    assert labels <= closed
    assert len(list(samples(metrics))) < 600, "series of one process"


def test_names_follow_the_conventions() -> None:
    for family in [*Metrics().registry.collect(), *ReconcilerMetrics().registry.collect()]:
        if family.name.startswith("process_"):
            continue
        assert re.fullmatch(r"custody_[a-z][a-z_]+", family.name)
        assert family.documentation
        assert not re.search(r"_(ms|milliseconds|minutes|kb|mb|percent)\b", family.name)
        for sample in family.samples:
            assert not sample.name.endswith("_created")
            assert (family.type == "counter") == sample.name.endswith("_total")


def test_two_instances_share_nothing() -> None:
    first, second = Metrics(), Metrics()
    first.read("custody.access", 9)
    assert value(second, "custody_events_read_total", topic="custody.access") == 0


def test_serves_on_loopback_and_names_a_taken_address() -> None:
    metrics = Metrics()
    metrics.landed(next(iter(EVENTS)), 3)
    port = metrics.serve(port=0)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    landed = {s.labels["topic"]: s.value for s in parsed["custody_events_landed"].samples}
    assert landed["custody.allocation"] == 3
    with pytest.raises(SekishoError, match=rf"127\.0\.0\.1:{port}.*--metrics"):
        Metrics().serve(port=port)
    with socket.socket() as probe:  # not on the machine's other addresses
        assert probe.connect_ex(("127.0.0.2", port)) != 0


def test_the_documentation_names_every_metric_and_every_label() -> None:
    text = (Path(__file__).parent.parent / "docs" / "metrics.md").read_text()
    rows = dict(re.findall(r"^\| `(custody_\w+)` \| (.*)$", text, re.MULTILINE))
    metrics = Metrics(rules=[("gap.identity.unknown", "high")])
    metrics.references("party", 1, 1.0)
    reconciler = ReconcilerMetrics(rules=[("gap.identity.unknown", "high")])
    reconciler.step(StepOutput(coverage_by_site={"hokkaido": 1.0}), 0.1, 1.0)
    exported = {}
    for family in [*metrics.registry.collect(), *reconciler.registry.collect()]:
        if family.name.startswith("custody_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            exported[name] = family.type, {label for s in family.samples for label in s.labels} - {"le"}
    assert set(rows) == set(exported)
    for name, (kind, labels) in exported.items():
        said = rows[name].split("|")
        assert said[0].strip() == kind
        assert set(re.findall(r"`(\w+)`", said[1])) == labels, name


def test_a_step_of_the_reconciler_is_exported() -> None:
    metrics = ReconcilerMetrics(rules=[("gap.source.silent", "medium"), ("gap.identity.unknown", "high")])
    assert value(metrics, "custody_findings_open", rule="gap.source.silent", severity="medium") == 0
    assert value(metrics, "custody_reconciler_active") == 0
    metrics.active(True)
    output = StepOutput(
        watermark=1_772_323_200_000_000,
        latest_broker_time=1_772_323_800_000_000,
        late=3,
        open_findings={("gap.source.silent", "medium"): 2, ("gap.no.longer", "high"): 1},
        coverage_by_site={"hokkaido": 0.75, "": 0.5},
        live_sources=4,
        silent_sources=1,
    )
    metrics.step(output, 0.02, 1_772_323_900.0)
    metrics.step(output, 0.02, 1_772_323_900.5)
    assert value(metrics, "custody_reconciler_active") == 1
    assert value(metrics, "custody_watermark_timestamp_seconds") == 1_772_323_200
    assert value(metrics, "custody_latest_broker_timestamp_seconds") == 1_772_323_800
    assert value(metrics, "custody_last_step_timestamp_seconds") == 1_772_323_900.5
    assert value(metrics, "custody_step_seconds_count") == 2
    assert value(metrics, "custody_events_late_total") == 6
    assert value(metrics, "custody_sources", state="live") == 4
    assert value(metrics, "custody_sources", state="silent") == 1
    assert value(metrics, "custody_findings_open", rule="gap.source.silent", severity="medium") == 2
    assert value(metrics, "custody_findings_open", rule="gap.no.longer", severity="high") == 1
    assert value(metrics, "custody_coverage_ratio", site="hokkaido") == 0.75
    assert value(metrics, "custody_coverage_ratio", site="unknown") == 0.5
    metrics.step(StepOutput(), 0.02, 1_772_323_901.0)
    assert value(metrics, "custody_findings_open", rule="gap.source.silent", severity="medium") == 0
    assert value(metrics, "custody_findings_open", rule="gap.no.longer", severity="high") == 0
    assert value(metrics, "custody_coverage_ratio", site="hokkaido") is None
    assert value(metrics, "custody_watermark_timestamp_seconds") == 1_772_323_200, "it never goes back"


def test_the_series_of_a_reconciler_are_bounded() -> None:
    metrics = ReconcilerMetrics()
    metrics.step(StepOutput(coverage_by_site={f"site-{n}": 1.0 for n in range(2 * MOST_SITES)}), 0.1, 1.0)
    sites = [labels for name, labels, _ in samples(metrics) if name == "custody_coverage_ratio"]
    assert len(sites) == MOST_SITES
