"""The alert rules and the scrape configuration, under Debian's Prometheus."""

import json
import os
import re
import socket
import subprocess
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
from sinks.metrics import DEFAULT_HOST, DEFAULT_PORT, Metrics

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


def test_rules_use_only_metrics_that_exist() -> None:
    families = list(Metrics().registry.collect())
    exported = {family.name for family in families} | {s.name for family in families for s in family.samples}
    recorded = set(re.findall(r"record: (\S+)", RULES.read_text()))
    used = set(re.findall(r"(?<![:\w])custody_[a-z_]+", re.sub(r"#.*", "", RULES.read_text())))
    assert used <= exported | recorded


def test_the_scrape_configuration_points_at_the_default_address() -> None:
    assert f'"{DEFAULT_HOST}:{DEFAULT_PORT}"' in (FOLDER / "prometheus.yml").read_text()


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


def test_a_process_is_scraped_and_the_rules_evaluate(programs: Programs, tmp_path: Path) -> None:
    metrics = Metrics(rules=[("gap.identity.unknown", "high")])
    port = metrics.serve(port=0)
    metrics.read("custody.access", 10)
    metrics.landed("custody.access", 8)
    metrics.rejected("custody.access", "not_json", 1)
    metrics.found("gap.identity.unknown", "high", 3)
    metrics.offsets(read=10, landed=8, end=12)
    metrics.committed(time.time() - 5)
    metrics.references("party", 2, time.time() - 100)
    with prometheus(programs, f"127.0.0.1:{port}", tmp_path) as server:
        server.wait(lambda: server.value("instance:custody_unlanded:records") == 4)
        assert server.value("sum(custody_events_read_total)") == 10
        assert server.value('custody_events_rejected_total{reason="not_json",topic="custody.access"}') == 1
        assert server.value('sum(custody_findings_total{severity="high"})') == 3
        age = server.value("instance:custody_commit_age:seconds")
        assert age is not None
        assert 4 < age < 60
        server.wait(
            lambda: bool(server.get("query", query="job_stream:custody_reference_age:seconds")["result"])
        )
        rules = [rule for group in server.get("rules")["groups"] for rule in group["rules"]]
        assert len(rules) >= 11
        server.wait(
            lambda: (
                {rule["health"] for group in server.get("rules")["groups"] for rule in group["rules"]}
                == {"ok"}
            )
        )
        types = server.get("targets/metadata", metric="custody_commit_seconds")
        assert types[0]["type"] == "histogram"
        assert server.value('count(ALERTS{alertstate="firing"})') is None
