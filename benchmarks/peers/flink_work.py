"""Apache Flink SQL, the whole work, on a local cluster in one JVM.

python -m benchmarks.peers.flink_work

Two jobs run one after the other, each from its submission to its end: one that reads all reference versions
and no event, then the one that is measured. What the first took is taken off, since loading versions is not
measured of the others either. Its JVM was cold, so this takes off some seconds too many: kind to Flink.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from benchmarks.peers import flink_jars, flink_sql
from benchmarks.peers.meter import Meter
from benchmarks.processes import cpu_seconds, peak_mb

OPEN = (
    "java.lang",
    "java.lang.reflect",
    "java.net",
    "java.nio",
    "java.time",
    "java.util",
    "java.util.concurrent",
)
"""Packages of Java that Flink needs opened."""
MEMORY = "-Xmx4g"
SETTINGS = {
    "parallelism.default": "2",
    "execution.checkpointing.interval": "5 s",
    "taskmanager.memory.network.min": "512mb",
    "taskmanager.memory.network.max": "512mb",
}


@dataclass(frozen=True)
class Spent:
    seconds: float
    cpu_seconds: float


class Flink:
    """A JVM with Flink's table API."""

    def __init__(self) -> None:
        options = [MEMORY, *(f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in OPEN)]
        port, self._process = launch_gateway(
            classpath=f"{flink_jars.fetch()}/*",
            javaopts=options,
            die_on_exit=True,
            redirect_stderr=sys.stderr,
            return_proc=True,
        )
        self._gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port))

    def run(self, meter: Meter, folder: Path, until: str) -> Spent:
        """Runs the job until it has read and written everything, and returns what that took."""
        environment = self._environment(folder)
        for statement in flink_sql.tables(meter.brokers, meter.topics, folder, until):
            environment.executeSql(statement)
        job = environment.createStatementSet()
        for statement in flink_sql.inserts():
            job.addInsertSql(statement)
        submitted = job.execute()
        started, cpu = time.monotonic(), cpu_seconds(self._process.pid)
        getattr(submitted, "await")()
        return Spent(time.monotonic() - started, cpu_seconds(self._process.pid) - cpu)

    def peak_mb(self) -> float:
        return peak_mb(self._process.pid)

    def _environment(self, folder: Path) -> Any:
        api = self._gateway.jvm.org.apache.flink.table.api
        environment = api.TableEnvironment.create(
            api.EnvironmentSettings.newInstance().inStreamingMode().build()
        )
        checkpoints = {"execution.checkpointing.dir": f"file://{folder}/checkpoints"}
        for name, value in (SETTINGS | checkpoints).items():
            environment.getConfig().set(name, value)
        return environment


def main() -> None:
    meter, flink = Meter(), Flink()
    start = flink.run(meter, meter.folder / "start", flink_sql.NOTHING)
    whole = flink.run(meter, meter.folder, flink_sql.LATEST)
    meter.seen = meter.events
    meter.write(whole.seconds - start.seconds, whole.cpu_seconds - start.cpu_seconds, flink.peak_mb())


if __name__ == "__main__":
    main()
