"""The chart of the README, drawn from the benchmarks' results.

python -m benchmarks.chart draws it again from the results that are there.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

OWN, WORK, LESS, LIMIT = "#0b7285", "#868e96", "#ced4da", "#f1f3f5"
_KINDS = {"work": WORK, "lookup": LESS, "consume": LIMIT}
_NAMES = {
    "sekisho": "Sekisho, everything",
    "faust": "Faust, this work",
    "quix": "Quix Streams, this work",
    "bytewax": "Bytewax, this work",
    "flink": "Flink SQL, this work",
    "faust_lookup": "Faust tutorial, one look-up",
    "quix_lookup": "Quix Streams, one look-up",
    "bytewax_lookup": "Bytewax, one look-up",
    "confluent_kafka_consume": "confluent-kafka, only reading",
    "aiokafka_consume": "aiokafka, only reading",
    "whole_fetch_consume": "Sekisho's transport, only reading",
}


def draw(results: Path, out: Path) -> None:
    """Draws `peers.json` of the folder `results`; nothing where it is missing."""
    if not (results / "peers.json").exists():
        return
    peers = json.loads((results / "peers.json").read_text())
    machine = peers["machine"]
    with rc_context({"svg.hashsalt": "sekisho", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        rate, cost = figure.subplots(1, 2, sharey=True)
        _bars(rate, peers, "events_per_second", "events per second, thousands", 1e-3)
        _bars(cost, peers, "cpu_us_per_event", "µs of CPU per event", 1.0)
        figure.suptitle(
            f"One process of each on one Kafka topic, {machine['cores']} cores shared with the broker"
            f" ({machine['cpu']})\nmake bench-peers; grey: the same work, pale: less work or none",
            fontsize=9,
        )
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, metadata={"Date": None}, facecolor="white")


def _bars(axes: Axes, peers: Mapping[str, Any], figure: str, label: str, scale: float) -> None:
    names = [name for name in _NAMES if name in peers and "events_per_second" in peers[name]]
    values = [peers[name][figure] * scale for name in names]
    bars = axes.barh([_NAMES[name] for name in names], values, color=_colours(peers, names), edgecolor=WORK)
    axes.bar_label(bars, [f"{value:,.0f}" if value >= 10 else f"{value:.1f}" for value in values], padding=3)
    axes.set_xlabel(label)
    axes.set_xlim(0, max(values) * 1.15)
    axes.spines[["top", "right"]].set_visible(False)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def _colours(peers: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    return [OWN if name == "sekisho" else _KINDS[peers[name]["kind"]] for name in names]


if __name__ == "__main__":
    from benchmarks.everything import CHART, RESULTS

    draw(RESULTS, CHART)
