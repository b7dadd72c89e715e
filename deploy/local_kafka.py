"""Apache Kafka on this machine: one KRaft node from Maven, for tests, benchmarks and trying things out.

    python -m deploy.local_kafka --port 9092

Needs Java 17 and Maven; the jars are kept in a cache folder (SEKISHO_CACHE, else `.cache/` of the
checkout). Everything listens on the loopback address only and the data is thrown away on exit.
"""

import argparse
import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kafka.admin import KafkaAdminClient, NewTopic
from kafka.errors import KafkaError, TopicAlreadyExistsError

POM = Path(__file__).with_name("kafka-pom.xml")
CHECKOUT = POM.parent.parent
UP_SECONDS = 60.0  # a loaded machine takes up to 15 s


def unavailable_reason() -> str | None:
    """Why Apache Kafka cannot run here, or None when it can."""
    if shutil.which("java") is None:
        return "Java 17 is not installed (apt-get install openjdk-17-jre-headless)"
    if shutil.which("mvn") is None and not (_jar_folder() / "complete").exists():
        return "Maven is not installed (apt-get install maven)"
    text = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(\d+)', text)
    if found is None or int(found[1]) < 17:
        return f"Java 17 or newer is needed, found: {text.splitlines()[0] if text else 'no version'}"
    return None


def create_topics(
    bootstrap: str, partitions: Mapping[str, int], config: Mapping[str, str] | None = None
) -> None:
    """Create topics with one replica each; those that exist are left as they are."""
    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        for name, count in partitions.items():
            topic = NewTopic(
                name, num_partitions=count, replication_factor=1, topic_configs=dict(config or {})
            )
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics([topic])
    finally:
        admin.close()


class LocalKafka:
    """A running broker; a context manager that stops it and removes its data.

    `bootstrap` is its address, which stays the same through `kill()`, `stop()`, `start()` and `restart()`.
    `settings` are further lines of its configuration file. A `brief` one is up and gone in less time but
    serves slower: for tests, not for measuring.
    """

    def __init__(
        self, port: int | None = None, settings: Mapping[str, str] | None = None, brief: bool = False
    ) -> None:
        reason = unavailable_reason()
        if reason is not None:
            raise RuntimeError(f"Apache Kafka cannot run here: {reason}")
        self.port = port or _free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.folder = Path(tempfile.mkdtemp(prefix="sekisho-kafka-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._compiler = ["-XX:TieredStopAtLevel=1"] if brief else []
        self._classpath = f"{_jars()}/*"
        self._write_configuration(settings or {})
        self._java("kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(self._config))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> Self:
        """Start the broker and return once it answers."""
        assert self._process is None, "the broker already runs"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            raise RuntimeError(f"port {self.port} is taken by another process; choose another")
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("kafka.Kafka", str(self._config)),
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        self._wait_until_up()
        return self

    def stop(self) -> None:
        """Stop the broker in good order and keep its data."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Stop the broker with SIGKILL and keep its data."""
        self._end(signal.SIGKILL)

    def restart(self, *, kill: bool = False) -> None:
        """Stop or kill the broker, then start it again on its data."""
        self._end(signal.SIGKILL if kill else signal.SIGTERM)
        self.start()

    def close(self) -> None:
        """Stop the broker and remove its data."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self.folder, ignore_errors=True)

    def create_topics(self, partitions: Mapping[str, int], config: Mapping[str, str] | None = None) -> None:
        """Create topics on this broker (see the function of that name)."""
        create_topics(self.bootstrap, partitions, config)

    @property
    def _config(self) -> Path:
        return self.folder / "server.properties"

    def _write_configuration(self, settings: Mapping[str, str]) -> None:
        controller = _free_port()
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": f"PLAINTEXT://{self.bootstrap},CONTROLLER://127.0.0.1:{controller}",
            "advertised.listeners": f"PLAINTEXT://{self.bootstrap}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "data"),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "1000",
            "broker.session.timeout.ms": "2000",  # else a killed broker waits 9 s for its own old session
            "broker.heartbeat.interval.ms": "500",
            "auto.create.topics.enable": "false",
            "log.cleaner.backoff.ms": "200",
            **settings,
        }
        self._config.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))

    def _command(self, main: str, *arguments: str) -> list[str]:
        quiet = "-Dlog4j2.level=WARN"
        return [
            "java",
            "-Xmx512m",
            "-Xms128m",
            "-XX:+UseSerialGC",
            *self._compiler,
            quiet,
            "-cp",
            self._classpath,
            main,
            *arguments,
        ]

    def _java(self, main: str, *arguments: str) -> None:
        done = subprocess.run(self._command(main, *arguments), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{main} failed: {done.stderr or done.stdout}")

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + UP_SECONDS
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"Kafka ended at once:\n{self._log_end()}")
            with contextlib.suppress(OSError, KafkaError):
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    pass
                admin: Any = KafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
                admin.list_topics()
                admin.close()
                return
            time.sleep(0.1)
        raise RuntimeError(f"Kafka was not up within {UP_SECONDS:.0f} s:\n{self._log_end()}")

    def _log_end(self) -> str:
        return (self.folder / "log").read_text(errors="replace")[-2000:]

    def _end(self, sign: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(sign)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _jar_folder() -> Path:
    cache = os.environ.get("SEKISHO_CACHE")
    return (Path(cache) if cache else CHECKOUT / ".cache") / "kafka"


def _jars() -> Path:
    """The folder of Kafka's jars, fetched by Maven the first time (several processes may ask at once)."""
    folder = _jar_folder()
    mark = folder / "complete"
    pom = POM.read_text()
    if mark.exists() and mark.read_text() == pom:
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    goal = ["dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={fresh}"]
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(POM), *goal], capture_output=True, text=True, check=False
    )
    if done.returncode:
        shutil.rmtree(fresh)
        raise RuntimeError(f"Maven could not fetch Apache Kafka: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    (fresh / "complete").write_text(pom)
    if mark.exists() and mark.read_text() == pom:  # another process was first, and may be using it
        shutil.rmtree(fresh)
        return folder
    try:
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except OSError:  # another process was first
        shutil.rmtree(fresh, ignore_errors=True)
    return folder


def _die_with_parent() -> None:
    """On Linux a broker ends with the thread that started it: a run that is killed leaves none behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def _cluster_id() -> str:
    return "c2VraXNoby1sb2NhbC0wMQ"  # a Kafka UUID: 16 bytes in URL-safe base64 without padding


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run a broker until interrupted."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local_kafka", description=main.__doc__)
    parser.add_argument("--port", type=int, help="port on the loopback address (default: a free one)")
    parser.add_argument("--fetch", action="store_true", help="only fetch what is needed, and end")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        if arguments.fetch:
            _jars()
            return
        with LocalKafka(port=arguments.port) as kafka:
            print(f"Apache Kafka is up at {kafka.bootstrap}; stop it with Ctrl-C", flush=True)
            signal.pause()
    except KeyboardInterrupt:
        sys.exit(0)
    except RuntimeError as error:
        sys.exit(f"local_kafka: {error}")


if __name__ == "__main__":
    main()
