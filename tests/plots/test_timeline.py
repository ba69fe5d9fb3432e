"""The timeline figure: what is drawn, not how it looks."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from support.handmade import two_chips
from support.pipelines import scenario

from sim import topology as machines
from sim.plots import breakdown, roofline, timeline
from sim.plots import machine as machine_plot
from sim.plots.colours import OP_COLOURS, PART_LOOKS, REQUEST_COLOURS
from sim.plots.style import save
from sim.program import Kind
from sim.report import critical_path
from sim.report.breakdown import PARTS
from sim.report.critical_path import find_critical_path
from sim.report.lanes import find_tasks_on_path, group_identical_chips, layer_times
from sim.report.metrics import critical_chip
from sim.simulate.run import run
from sim.specs import load as load_files


def texts(figure: Figure) -> list[str]:
    """All texts inside the panels, top panel first."""
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def rows(axes: Axes) -> list[str]:
    """Names of the rows of a panel."""
    return [label.get_text() for label in axes.get_yticklabels()]


def test_equal_chips_are_drawn_once_and_unequal_ones_apart() -> None:
    same = texts(timeline.draw(*two_chips(slower_us=0)))
    assert [text for text in same if text.startswith("chip")] == [
        "chip 0 of 2 (all identical): 60% compute, 40% exposed communication, 0% waiting or idle"
    ] * 2
    apart = texts(timeline.draw(*two_chips(slower_us=2)))
    starts = [text.split(":")[0] for text in apart if text.startswith("chip")]
    assert starts == ["chip 1 of 2 (critical)", "chip 0 of 2"] * 2


def test_a_chosen_chip_is_drawn_or_named_at_the_one_that_does_the_same() -> None:
    same = texts(timeline.draw(*two_chips(slower_us=0), roles={1: "chosen"}, chosen=(1,)))
    assert "chip 0 of 2 (all identical, like chip 1: chosen)" in [text.rpartition(": ")[0] for text in same]
    apart = texts(timeline.draw(*two_chips(slower_us=2), roles={0: "chosen"}, chosen=(0,)))
    assert "chip 0 of 2 (chosen)" in [text.split(":")[0] for text in apart]


def test_lanes_and_names_in_bars() -> None:
    figure = timeline.draw(*two_chips(slower_us=0), title="by hand")
    whole, layer = figure.axes
    assert rows(whole) == [
        "critical path",
        "compute",
        "collectives",
        "x+",
        "x-",
    ]
    names = texts(figure)
    for name in ("q_wi", "attention", "all-gather(x) residual", "reduce-scatter(x) q_wi", "all-reduce(x) out"):
        assert name in names
    assert whole.get_xlim() == (0, 30)  # us
    assert figure.get_suptitle() == "by hand"
    assert "Layer 0 of layers 0 to 0" in layer.get_title(loc="left")


def test_many_layers_become_shares_and_a_middle_layer_is_drawn_in_full() -> None:
    trace, topology = two_chips(layers=10, slower_us=0)
    whole, layer = timeline.draw(trace, topology).axes
    assert rows(whole) == [
        "critical path",
        "compute",
        "collectives",
        "links, mean of 2",
    ]
    assert rows(layer) == [
        "critical path",
        "compute",
        "collectives",
        "x+",
        "x-",
    ]
    assert "Layer 5 of layers 0 to 9" in layer.get_title(loc="left")
    busy = [text.get_text() for text in whole.texts if text.get_text().endswith("%")]
    assert busy == ["100%", "60%", "73%", "27%"]  # 30, 18, 22 and (16 + 0) / 2 of 30 us


def test_what_is_on_the_critical_path_is_known_of_all_chips_that_do_the_same() -> None:
    # With equal chips the path may run over either; the matmuls and the two collectives it passes are on it on both,
    # attention and the all-gather are on none.
    trace, topology = two_chips(slower_us=0)
    found = find_tasks_on_path(trace, topology, find_critical_path(trace), group_identical_chips(trace, topology))
    program = trace.program
    for op, expected in (("q_wi", True), ("wo", True), ("attention", False)):
        own = (program.op == program.op_names.index(op)) & (program.kind == Kind.COMPUTE)
        assert found[own].tolist() == [expected] * 2
    begins = {
        program.op_names[program.op[task]] for task in np.flatnonzero(found & (program.kind == Kind.BEGIN)).tolist()
    }
    assert begins == {"reduce_scatter(x) q_wi", "all_reduce(x) out"}


def test_the_breakdown_names_every_part_with_its_share() -> None:
    # Of 30 us: attention 16-20 under the all-reduce, the all-gather 0-6 under q_wi: 10 overlapped; compute 18 in all.
    labels = [
        text.get_text()
        for axes in breakdown.draw(*two_chips(slower_us=0), "bf16").axes
        for text in axes.get_legend().get_texts()
    ]
    assert labels[:5] == ["compute-bound 26.7%", "memory-bound 0.0%", "overlapped 33.3%", "exposed 40.0%", "idle 0.0%"]
    assert labels[5:] == ["compute 46.7%", "transfer 40.0%", "link latency 6.7%", "launches of collectives 6.7%"]


def test_requests_above_the_parts_of_a_stage_have_colours_of_their_own() -> None:
    assert {PART_LOOKS[name].colour for name in PARTS}.isdisjoint(REQUEST_COLOURS)


def test_no_two_parts_of_a_bar_look_alike_unless_they_mean_the_same() -> None:
    parts = {name: PART_LOOKS[name] for name in PARTS}
    causes = {name: PART_LOOKS[name] for name in critical_path.CAUSES}
    assert len({*parts.values()}) == len(parts)
    assert len({*causes.values()}) == len(causes)
    same = {frozenset((a, b)) for a in parts for b in causes if parts[a] == causes[b]}
    assert same == {
        frozenset(("compute-bound", critical_path.COMPUTE)),
        frozenset(("memory-bound", critical_path.MEMORY)),
        frozenset(("stream join", critical_path.JOIN)),
        frozenset(("exchange kernel", critical_path.KERNEL)),
        frozenset(("memory pool", critical_path.COPY)),
    }
    assert len(set(OP_COLOURS.values())) == len(OP_COLOURS)  # classes of operations in the timeline


def test_operations_that_would_hide_one_another_share_a_marker_and_keep_their_numbers() -> None:
    def point(flops_per_byte: float, flops_per_s: float) -> roofline.Point:
        return roofline.Point("op", flops_per_byte, flops_per_s, 1.0)

    found = [point(1, 1e12), point(100, 1e14), point(1.05, 1.02e12), point(1, 3e12)]
    assert roofline.cluster_points(found, 1e4, 1e4) == [[0, 2], [1], [3]]


def test_the_roofline_has_the_rates_of_the_operations() -> None:
    # 1e6 FLOPs and 100 bytes in 10 us (q_wi) and 4 us (the others).
    found = {point.op: point for point in roofline.list_points(*two_chips(slower_us=0))}
    assert found["q_wi"].flops_per_byte == pytest.approx(1e4)
    assert found["q_wi"].flops_per_s == pytest.approx(1e11)
    assert found["wo"].flops_per_s == pytest.approx(2.5e11)
    labels = [text.get_text() for text in roofline.draw(*two_chips(), "bf16").legends[0].get_texts()]
    assert labels[0] == "data sheet: 100 TFLOP/s, 1,000 GB/s"


def test_every_direction_of_every_link_is_drawn_once_with_its_load() -> None:
    trace, topology = two_chips(slower_us=0)
    load = machine_plot.Load.of(trace, topology)
    assert load.utilisation.tolist() == pytest.approx([16 / 30, 0, 16 / 30, 0])  # x+ of each chip carries all
    for name in ("tpu_v4_4x4x4", "dgx_h100", "dgx1_v100", "h100_pcie_bridges", "tpu_v4_4x4x8_twisted"):
        machine = machines.build(load_files.topology_spec(name, []))
        drawn = [link for each in machine_plot.list_segments(machine_plot.drawing_of(machine)) for link in each.links]
        assert sorted(drawn) == list(range(len(machine.links)))


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_same_trace_gives_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    trace, topology = two_chips(layers=8)
    for name in ("a", "b"):
        save(timeline.draw(trace, topology, title="same"), tmp_path / f"{name}{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_time_outside_layers_is_cut_into_bins_of_a_layer() -> None:
    """Layers of 10, the first at 35, the last until 105 of 125: the 35 before and the 20 after are cut into 4 and 2."""
    bins = timeline.share_bins(np.arange(35, 106, 10), 125)
    assert np.diff(bins).max() == 10
    assert bins.tolist() == [0, 8, 17, 26, *range(35, 106, 10), 115, 125]


@pytest.mark.parametrize("stages", [[12], [1, 11], [4, 4, 4]])
@pytest.mark.parametrize("schedule", ["non_blocking", "blocking", "bounded_queue", "sequential"])
def test_bins_of_a_pipeline_are_of_layers_over_the_whole_time(stages: list[int], schedule: str) -> None:
    """Each layer of each batch has its own, and no bin is longer than half of the layers are."""
    queue = {"queue": {"capacity": 1, "retry": "0 s"}} if schedule == "bounded_queue" else {}
    given = scenario(layers=12, stages=stages, requests=8, schedule=schedule, batch=8, **queue)
    (part,) = run(given).passes
    trace, topology = part.trace, part.topology
    chip = critical_chip(trace, topology.chips)
    times = layer_times(trace, chip)
    batches = part.lowered.batches
    assert batches is not None
    index = next(i for i, chips in enumerate(batches.chips) if topology.chip_number(chip) in chips)
    passes = [each for each in batches.passes if each.stage == index]
    assert len(times) == stages[index] * len(passes)
    assert times.layer.tolist() == list(range(sum(stages[:index]), sum(stages[: index + 1]))) * len(passes)
    assert times.batch.tolist() == sorted(list(range(len(passes))) * stages[index])
    bins = timeline.share_bins(times.edges, trace.makespan_ps)
    assert (bins[0], bins[-1]) == (0, trace.makespan_ps)
    assert set(times.edges.tolist()) <= set(bins.tolist())
    assert np.diff(bins).max() <= np.median(np.diff(times.edges)) + 1  # whole picoseconds
    _, layer = timeline.draw(trace, topology).axes
    assert f"Layer {times.layer[len(times) // 2]} of layers" in layer.get_title(loc="left")
