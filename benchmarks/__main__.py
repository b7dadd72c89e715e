"""`python -m benchmarks NAME [--json] [--quick | --full]`: measure, and print a table or one JSON object."""

import argparse
import importlib
import json
from typing import Any

from benchmarks.size import Size

BENCHMARKS = {
    "latency": "from a record's append to its finding and to its row, at several rates",
    "peers": "Sekisho's worker beside other stream processors, on one topic",
    "queries": "how long the ten questions of docs/questions.md take as the lake grows",
    "reconciler": "the reconciler's events a second as the history grows, and a version that reaches back",
    "reconciler_latency": "how long until the reconciler finds what one record alone does not show",
    "restart": "seconds from the start of a worker to its first landed event",
    "scale": "CPU per event as reference versions, rules, partitions, sizes and bad records grow",
    "scan": "`scan` and `replay` beside the live worker, the reconciler's share apart",
    "stages": "µs of CPU per event in each stage of the worker, by stream",
    "workers": "one, two and three workers on one topic, and what fleets need",
}
"""What each measures; it is a module `benchmarks.<name>_bench` with `run(size)` and `show(results)`."""


def module_of(name: str) -> Any:
    """The module of a benchmark."""
    return importlib.import_module(f"benchmarks.{name}_bench")


def main() -> None:
    """Run one benchmark."""
    names = "; ".join(f"{name}: {about}" for name, about in BENCHMARKS.items())
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=names)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a look in at most five minutes")
    size.add_argument("--full", action="store_true", help="everything at full size, which may take hours")
    arguments = parser.parse_args()
    module = module_of(arguments.name)
    results = module.run(Size.QUICK if arguments.quick else Size.FULL if arguments.full else Size.USUAL)
    if arguments.json:
        print(json.dumps(results))
    else:
        module.show(results)


if __name__ == "__main__":
    main()
