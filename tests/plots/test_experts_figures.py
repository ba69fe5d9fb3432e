"""Figures of experts: what they draw are the rows and bytes of the run, and their text is legible."""

from __future__ import annotations

from functools import cache

import pytest
from support.legible import illegible
from support.served_mixture import CHIPS, mixture

from sim.plots import exchange, experts, node_link
from sim.plots.machine import Load
from sim.plots.style import page_width
from sim.report.metrics import measure
from sim.results import figures as pictures
from sim.simulate.result import Pass
from sim.simulate.run import run

HOT = "workload.routing={load: hot_rank, spread: 0.7}"
MANY = ("topology.chips=32", "model.kv_heads=32", "model.heads=32")


@cache
def one_pass(*settings: str) -> Pass:
    return run(mixture(*settings)).passes[0]


@pytest.mark.parametrize("width_in", [None, 3.3])
@pytest.mark.parametrize("figure", pictures.OF_EXPERTS)
@pytest.mark.parametrize("settings", [(), (HOT,), (HOT, *MANY)], ids=["uniform", "hot", "hot, 32 chips"])
def test_text_is_large_enough_and_neither_cut_nor_covered(settings, figure: str, width_in: float | None):
    part = one_pass(*settings)
    assert pictures.has_figure(figure, part)
    with page_width(width_in):
        assert illegible(pictures.draw_figure(figure, part, "a mixture\nwith engine.layers=8")) == []


def test_the_matrix_has_the_bytes_between_chips_and_their_sums():
    part = one_pass(HOT)
    rows = part.lowered.expert_rows
    assert rows is not None
    made = exchange.draw(rows, part.topology.unfold())
    (above, _, matrix, beside, *_) = made.axes
    between = rows.bytes_between("dispatch")
    assert above.patches[0].get_data().values.tolist() == between.sum(axis=0).tolist()
    assert beside.patches[0].get_data().values.tolist() == between.sum(axis=1).tolist()
    shown = matrix.images[0].get_array()
    assert shown is not None
    assert shown.mask.sum() == CHIPS  # type: ignore[union-attr]
    assert shown.max() == pytest.approx(between.max() / 2**10)


def test_bars_are_the_rows_of_chips_and_of_experts():
    part = one_pass(HOT)
    rows, found = part.lowered.expert_rows, part.report.experts
    assert rows is not None
    assert found is not None
    above, below = experts.draw(rows, found).axes
    assert [bar.get_height() for bar in above.patches] == rows.of_chips.tolist()
    assert sorted(bar.get_height() for bar in below.patches) == sorted(rows.held.ravel().tolist())


def test_links_of_dispatch_and_combine_are_all_links_where_nothing_else_is_sent():
    """Chips exchange tokens alone until the next token is gathered, which the last layer's logits need."""
    part = one_pass(HOT, "layout.logits=none")
    loads = [Load.of(part.trace, part.topology, way) for way in ("dispatch", "combine")]
    measures = measure(part.trace, part.topology)
    assert sum(load.bytes for load in loads) == pytest.approx(measures.link_bytes)
    assert sum(load.utilisation for load in loads) == pytest.approx(measures.link_utilisation)


@pytest.mark.parametrize(("settings", "shown"), [(MANY, node_link.SWITCH_CHIPS), ((HOT, *MANY), 32)])
def test_a_part_of_the_chips_is_drawn_only_if_all_have_the_same_load(settings, shown: int):
    part = one_pass(*settings)
    machine = part.topology.unfold()
    load = Load.of(part.trace, part.topology, "dispatch")
    drawing = node_link.drawing(machine, every_chip=not load.is_equal(machine))
    assert sorted(node.chip for node in drawing.nodes if node.chip >= 0) == list(range(shown))
    drawn = {link for line in drawing.lines for link in line.links}
    assert int(load.utilisation.argmax()) in drawn


def test_timelines_draw_the_chip_with_the_most_rows_and_name_shared_experts():
    part = one_pass(HOT)
    assert part.chip_roles == {0: "most rows of experts"}
    made = pictures.draw_figure("timeline", part, "a mixture")
    labels = [text.get_text() for legend in made.legends for text in legend.get_texts()]
    assert {"dispatch", "combine", "shared experts"} <= set(labels)
