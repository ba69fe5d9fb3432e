"""Draw tasks and time of a step against chips from the benchmarks:

pytest tests/benchmarks -k a_step --benchmark-only --benchmark-timer=time.process_time --benchmark-json=speed.json
python tests/benchmarks/scaling.py speed.json .assets/scaling.png
"""

import json
import sys
from pathlib import Path

from sim.plots.colours import PALETTE
from sim.plots.style import new_figure, save, set_plain_ticks, shared_style

LOOKS = {
    "every task, SimPy": ("vermilion", "s"),
    "every task, compiled": ("green", "^"),
    "with shortcuts": ("blue", "o"),
}


def draw(speed: Path, to: Path) -> None:
    """Read pytest-benchmark's results; write the figure."""
    steps = [one for one in json.loads(speed.read_text("utf-8"))["benchmarks"] if one["name"].startswith("test_a_step")]
    made = new_figure(8.0, 3.4)
    with shared_style():
        left, right = made.subplots(1, 2)
        for engine, (colour, marker) in LOOKS.items():
            own = sorted(
                (one for one in steps if one["params"]["engine"] == engine), key=lambda o: o["params"]["chips"]
            )
            chips = [one["params"]["chips"] for one in own]
            look = {"color": PALETTE[colour], "marker": marker, "label": engine, "markersize": 5}
            left.plot(chips, [one["extra_info"]["tasks"] for one in own], **look)
            right.plot(chips, [one["stats"]["min"] for one in own], **look)
        left.set(title="simulated tasks")
        right.set(title="time of a run, s")
        for axes in (left, right):
            axes.set(xscale="log", yscale="log", xlabel="chips")
            axes.set_xticks([1, 8, 64, 512, 4096], labels=["1", "8", "64", "512", "4,096"])
            axes.minorticks_off()
            set_plain_ticks(axes.yaxis)
            axes.grid(visible=True)
        left.legend(loc="upper left")
    save(made, to)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
