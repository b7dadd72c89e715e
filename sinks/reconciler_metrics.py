"""What a running reconciler tells Prometheus, named and bounded as what workers tell (`sinks/metrics.py`).

`site` holds ids of registered sites, which are no identity of a person or a customer; at most MOST_SITES.
"""

from collections.abc import Iterable

from rules.reconciler.given import StepOutput
from sinks.metrics import Exporter, rule_labels

MOST_SITES = 1000
UNKNOWN = "unknown"  # where a piece of coverage has no site


class ReconcilerMetrics(Exporter):
    """The metrics of one reconciler; a standby's stay as they were (`custody_reconciler_active` is 0)."""

    def __init__(self, rules: Iterable[tuple[str, str]] = ()) -> None:
        """`rules` are pairs of rule id and severity: their numbers of findings stand at zero at first."""
        super().__init__()
        self._rules = {rule_labels(*rule) for rule in rules}
        self._define()
        self.active(False)
        for labels in self._rules:
            self._open.labels(*labels)
        for state in ("live", "silent"):
            self._sources.labels(state)

    def _define(self) -> None:
        gauge = self._gauge
        self._active = gauge("reconciler_active", "1 where this reconciler settles, 0 where it stands by")
        self._steps = self._histogram("step_seconds", "Time to read, judge and settle one step")
        self._settled = gauge(
            "last_step_timestamp_seconds", "Time of the last settled step, 0 before the first"
        )
        self._watermark = gauge("watermark_timestamp_seconds", "The watermark, in event time; 0 without one")
        self._latest = gauge(
            "latest_broker_timestamp_seconds", "Latest broker time of any record read; 0 without one"
        )
        self._sources = gauge("sources", "Sources of events, by whether they live or are silent", "state")
        self._open = gauge("findings_open", "Findings that are provisional or confirmed", "rule", "severity")
        self._coverage = gauge(
            "coverage_ratio", "Accelerator-seconds with all four links over all of them", "site"
        )
        self._late = self._counter("events_late_total", "Events that came behind the watermark")

    def active(self, is_active: bool) -> None:
        self._active.set(is_active)

    def step(self, output: StepOutput, seconds: float, at: float) -> None:
        """A step was settled at this Unix time, in so many seconds."""
        self._steps.observe(seconds)
        self._settled.set(at)
        self._late.inc(output.late)
        if output.watermark is not None:
            self._watermark.set(output.watermark / 1e6)
        if output.latest_broker_time is not None:
            self._latest.set(output.latest_broker_time / 1e6)
        self._sources.labels("live").set(output.live_sources)
        self._sources.labels("silent").set(output.silent_sources)
        found = dict.fromkeys(self._rules, 0)
        for (rule_id, severity), count in output.open_findings.items():
            labels = rule_labels(rule_id, severity)
            found[labels] = found.get(labels, 0) + count
        for labels, count in found.items():
            self._open.labels(*labels).set(count)
        self._rules = set(found)
        self._coverage.clear()  # a site that has no pieces any more
        for site, ratio in sorted(output.coverage_by_site.items())[:MOST_SITES]:
            self._coverage.labels(site or UNKNOWN).set(ratio)
