"""The alert rules and the scrape configuration, under Debian's Prometheus."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy import install_prometheus
from deploy.install_prometheus import Programs
from deploy.local_kafka import LocalKafka
from sinks.metrics import DEFAULT_HOST, DEFAULT_PORT, Metrics
from sinks.reconciler_metrics import ReconcilerMetrics
from stream.commands.reconciler import METRICS
from tests.topics import delete_custody_topics

FOLDER = Path(install_prometheus.__file__).with_name("prometheus")
RULES = FOLDER / "custody.rules.yml"
pytestmark = pytest.mark.prometheus


@pytest.fixture(scope="session")
def programs() -> Programs:
    """Prometheus and promtool. Where they are missing, tests are skipped; in CI they are fetched or fail."""
    found = install_prometheus.find()
    if found is not None:
        return found
    if os.environ.get("CI") == "true":
        return install_prometheus.install()
    pytest.skip("Prometheus is missing: python -m deploy.install_prometheus")


def promtool(programs: Programs, *arguments: str) -> str:
    command = [str(programs.promtool), *arguments]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_rules_and_configuration_are_valid(programs: Programs) -> None:
    promtool(programs, "check", "rules", "--lint-fatal", RULES.name)
    promtool(programs, "check", "config", "prometheus.yml")


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.test.yml")), ids=lambda file: file.name)
def test_alerts_fire_when_they_must_and_only_then(programs: Programs, file: Path) -> None:
    promtool(programs, "test", "rules", file.name)


def test_every_alert_has_a_test_that_fires_it_and_says_what_to_do() -> None:
    text = RULES.read_text()
    tests = (FOLDER / "custody.test.yml").read_text()
    alerts = re.findall(r"- alert: (\w+)", text)
    assert len(alerts) >= 5
    assert text.count("action:") == text.count("summary:") == len(alerts)
    for alert in alerts:
        assert re.search(rf"alertname: {alert}\n\s+exp_alerts:\n\s+- exp_labels", tests), alert


def test_the_documentation_names_every_alert_with_its_severity() -> None:
    text = (FOLDER.parent.parent / "docs" / "metrics.md").read_text()
    documented = re.findall(r"^\| `(Custody\w+)` \| (\w+) \|", text, re.MULTILINE)
    alerts = re.findall(r"- alert: (\w+)\n.*?severity: (\w+)", RULES.read_text(), re.DOTALL)
    assert documented == alerts


def test_rules_use_only_metrics_that_exist() -> None:
    families = [*Metrics().registry.collect(), *ReconcilerMetrics().registry.collect()]
    exported = {family.name for family in families} | {s.name for family in families for s in family.samples}
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    used = set(re.findall(r"(?<![:\w])custody_[a-z_]+", re.sub(r"#.*", "", RULES.read_text())))
    assert used <= exported | recorded


def test_the_scrape_configuration_points_at_the_default_address() -> None:
    text = (FOLDER / "prometheus.yml").read_text()
    assert f'"{DEFAULT_HOST}:{DEFAULT_PORT}"' in text
    assert f'"{METRICS}"' in text


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A running Prometheus with the shipped configuration, scraping `target` twice a second."""

    def __init__(self, programs: Programs, target: str, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        text = (FOLDER / "prometheus.yml").read_text()
        text = text.replace(f"{DEFAULT_HOST}:{DEFAULT_PORT}", target).replace("15s", "500ms")
        text = text.replace(RULES.name, str(RULES))
        config = folder / "prometheus.yml"
        config.write_text(text)
        self.log = folder / "prometheus.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    str(programs.prometheus),
                    f"--config.file={config}",
                    f"--storage.tsdb.path={folder / 'data'}",
                    f"--web.listen-address={self.address}",
                ],
                stdout=log,
                stderr=log,
            )

    def get(self, path: str, **query: str) -> Any:
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def value(self, query: str) -> float | None:
        """The value of an instant query that has at most one result."""
        result = self.get("query", query=query)["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def wait(self, what: Callable[[], bool], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if what():
                    return
            except OSError:  # not up yet
                pass
            time.sleep(0.2)
        pytest.fail(f"not within {seconds} s:\n{self.log.read_text()[-2000:]}")


@contextmanager
def prometheus(programs: Programs, target: str, folder: Path) -> Iterator[Server]:
    server = Server(programs, target, folder)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(20)


def test_a_worker_is_scraped_and_the_rules_evaluate(
    programs: Programs, kafka: LocalKafka, tmp_path: Path
) -> None:
    """Records through Kafka and a worker into a lake, as Prometheus sees them; no alert fires."""
    address = f"127.0.0.1:{free_port()}"
    access = [event(n) for n in range(20)]
    with worker(kafka, tmp_path, address), prometheus(programs, address, tmp_path) as server:
        ship(kafka, "custody.party", [party("P-1"), party("P-2"), b"{}"])
        ship(kafka, "custody.access", [*access, b"no json", b'{"event_id":7}'])
        server.wait(lambda: server.value("sum(custody_events_landed_total)") == 25)
        server.wait(lambda: server.value("instance:custody_unlanded:records") == 0)
        assert server.value("sum(custody_events_read_total)") == 25
        rejected = server.get("query", query="custody_events_rejected_total > 0")["result"]
        assert {(r["metric"]["topic"], r["metric"]["reason"], r["value"][1]) for r in rejected} == {
            ("custody.party", "missing:party_id", "1"),
            ("custody.access", "not_json", "1"),
            ("custody.access", "missing:occurred_at", "1"),
        }
        assert server.value('sum(custody_findings_total{rule="gap.identity.unknown"})') == 20
        assert server.value('custody_reference_versions{stream="party"}') == 2
        assert (server.value("custody_commit_seconds_count") or 0) >= 1
        server.wait(lambda: (server.value("instance:custody_commit_age:seconds") or 99) < 60)
        server.wait(
            lambda: server.value('job_stream:custody_reference_age:seconds{stream="party"}') is not None
        )
        server.wait(lambda: rule_health(server) == {"ok"})
        assert server.get("targets/metadata", metric="custody_commit_seconds")[0]["type"] == "histogram"
        assert server.value('count(ALERTS{alertstate="firing"})') is None


def rule_health(server: Server) -> set[str]:
    return {rule["health"] for group in server.get("rules")["groups"] for rule in group["rules"]}


def party(party_id: str) -> bytes:
    text = {"party_id": party_id, "version": 1, "valid_from": "2026-01-01T00:00:00Z", "status": "verified"}
    return json.dumps(text).encode()


def event(number: int) -> bytes:
    text = {
        "event_id": f"E-{number}",
        "occurred_at": "2026-03-01T00:00:00Z",
        "source": "gateway",
        "principal": f"corp:nobody-{number}",
        "action": "call",
    }
    return json.dumps(text).encode()


def sekisho(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from stream.cli import main; main()", *arguments]


def ship(kafka: LocalKafka, topic: str, lines: list[bytes]) -> None:
    command = sekisho("produce", "--brokers", kafka.bootstrap, "--topic", topic, "-")
    subprocess.run(command, input=b"\n".join(lines), capture_output=True, check=True, timeout=60)


@contextmanager
def worker(kafka: LocalKafka, folder: Path, metrics: str) -> Iterator[None]:
    """A worker process on topics of its own making, up when the block begins."""
    delete_custody_topics(kafka.bootstrap)
    settings = {
        "brokers": kafka.bootstrap,
        "lake": str(folder / "lake"),
        "group": "prometheus-test",
        "partitions": "2",
        "metrics": metrics,
        "commit-seconds": "0.5",
    }
    options = [text for name, value in settings.items() for text in (f"--{name}", value)]
    log = folder / "worker.log"
    with log.open("wb") as file:
        process = subprocess.Popen(sekisho("worker", *options), stdout=file, stderr=file)
    try:
        deadline = time.monotonic() + 60
        while "sekisho worker of group" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)
        delete_custody_topics(kafka.bootstrap)
