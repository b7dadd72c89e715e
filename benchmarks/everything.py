"""The benchmarks one after the other, each in a process of its own: their tables, their JSON, and the chart.

python -m benchmarks.everything [--quick | --full] [--out DIR]
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import chart
from benchmarks.__main__ import BENCHMARKS, module_of

RESULTS = Path(__file__).parent / "results"
CHART = Path(__file__).parent.parent / "docs" / "bench.svg"
RECONCILER = ("reconciler", "reconciler_latency")
"""Left out but with `--full`: not of the path of an event, and the whole is to take less than 20 minutes."""


def main() -> None:
    """Runs them; one that fails is told at the end, and the others go on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.everything", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a look in at most five minutes each")
    size.add_argument("--full", action="store_true", help="everything at full size, which takes hours")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the JSON files")
    arguments = parser.parse_args()
    options = ["--quick"] if arguments.quick else ["--full"] if arguments.full else []
    arguments.out.mkdir(parents=True, exist_ok=True)
    names = [name for name in BENCHMARKS if arguments.full or name not in RECONCILER]
    failed = [name for name in names if not _run(name, options, arguments.out / f"{name}.json")]
    chart.draw(arguments.out, CHART)
    print(f"the chart is in {CHART}", file=sys.stderr)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; run each alone to see why: make bench-{failed[0]}")


def _run(name: str, options: list[str], out: Path) -> bool:
    print(f"{name}: {BENCHMARKS[name]}", file=sys.stderr, flush=True)
    began = time.monotonic()
    command = [sys.executable, "-m", "benchmarks", name, "--json", *options]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return False
    results = json.loads(done.stdout)
    out.write_text(json.dumps(results, indent=1) + "\n")
    module_of(name).show(results)
    print(f"  {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    return True


if __name__ == "__main__":
    main()
