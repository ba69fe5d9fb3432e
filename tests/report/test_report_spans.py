"""Unions, gaps and rows of spans against a grid of single picoseconds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.handmade import ring, two_chips

from sim.program import Kind, Labels, ProgramBuilder
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.lanes import build_lanes, group_identical_chips, layer_times

LANES, HORIZON = 3, 30


@st.composite
def spans_on_lanes(draw: st.DrawFn, lanes: int = LANES) -> sp.Spans:
    triples = st.tuples(st.integers(0, lanes - 1), st.integers(0, HORIZON), st.integers(0, 8))
    rows = draw(st.lists(triples, max_size=12))
    lane, start, length = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return sp.Spans(np.arange(len(rows)), lane, start, start + length)


def grid(spans: sp.Spans) -> np.ndarray:
    """[lanes, ps] how many spans cover each picosecond."""
    cells = np.zeros((LANES, HORIZON + 10), dtype=int)
    for lane, start, end in zip(spans.lane, spans.start, spans.end, strict=True):
        cells[lane, start:end] += 1
    return cells


@given(spans_on_lanes(), spans_on_lanes())
def test_union_covers_what_any_span_covers_once(a: sp.Spans, b: sp.Spans) -> None:
    union = sp.union(a, b)
    np.testing.assert_array_equal(grid(union), (grid(a) + grid(b)) > 0)
    np.testing.assert_array_equal(sp.lengths(union, LANES), ((grid(a) + grid(b)) > 0).sum(axis=1))
    same_lane = union.lane[1:] == union.lane[:-1]
    assert (union.start[1:] > union.end[:-1])[same_lane].all()  # sorted, disjoint, not touching


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from([0.1, 1 / 3, 7.0]), st.integers(1, 9)), max_size=20))
def test_totals_are_the_same_in_any_order_and_however_often_a_row_is_written(
    rows: list[tuple[int, float, int]],
) -> None:
    """A row that counts n times is n rows; sums one after the other would differ in the last bits."""
    group, value, often = (np.array([row[i] for row in rows], dtype=t) for i, t in enumerate((int, float, np.int64)))
    single = np.repeat(np.arange(len(rows)), often)[::-1]
    once = np.ones(len(single), dtype=np.int64)
    found = sp.totals(group, value, often, 3)
    assert found.tolist() == sp.totals(group[single], value[single], once, 3).tolist()
    assert found == pytest.approx([sum(v * n for g, v, n in rows if g == lane) for lane in range(3)], rel=1e-12)


@given(spans_on_lanes(lanes=1), spans_on_lanes(lanes=1))
def test_minus_leaves_what_is_not_covered_of_each_span(spans: sp.Spans, cover: sp.Spans) -> None:
    pieces = sp.minus(spans, sp.union(cover))
    np.testing.assert_array_equal(grid(pieces), np.where(grid(cover) > 0, 0, grid(spans)))
    assert (pieces.end > pieces.start).all()
    for task in range(len(spans)):
        own, of_task = spans.where(spans.task == task), pieces.where(pieces.task == task)
        np.testing.assert_array_equal(grid(of_task), np.where(grid(cover) > 0, 0, grid(own)))


@given(spans_on_lanes(lanes=1))
def test_rows_have_no_overlaps_and_are_as_few_as_run_at_once(spans: sp.Spans) -> None:
    spans = spans.of_lane(0)
    spans = spans.where(spans.end > spans.start)
    row = sp.pack(spans)
    for k in range(LANES):
        assert grid(spans.where(row == k)).max() <= 1
    assert row.max(initial=-1) + 1 == grid(spans).max()


def test_a_window_cuts_spans_to_itself() -> None:
    spans = sp.Spans(np.arange(3), np.zeros(3, dtype=int), np.array([0, 5, 12]), np.array([5, 11, 20]))
    inside = spans.within(5, 15)
    assert [inside.start.tolist(), inside.end.tolist(), inside.task.tolist()] == [[5, 12], [11, 15], [1, 2]]


def test_a_collective_without_its_end_is_refused() -> None:
    builder = ProgramBuilder(["0:compute", "1:compute"])
    builder.add("all_gather(x) a", Kind.BEGIN, [0, 1], labels=Labels(collective=builder.new_collective()))
    nothing = np.zeros(2, dtype=np.int64)
    with pytest.raises(ValueError, match="one BEGIN and one END on each of its chips"):
        sp.collective_spans(Trace.from_start_times(builder.build(), nothing, nothing))


def test_a_collective_that_ends_before_it_begins_is_refused() -> None:
    builder = ProgramBuilder(["0:compute", "1:compute"])
    number = builder.new_collective()
    builder.add("all_gather(x) a", Kind.BEGIN, [0], labels=Labels(collective=number))
    builder.add("all_gather(x) a", Kind.END, [0], labels=Labels(collective=number))
    start = np.array([5, 3])
    with pytest.raises(ValueError, match=r"cannot end before it begins: all_gather\(x\) a \(chip 0\)"):
        sp.collective_spans(Trace.from_start_times(builder.build(), start, start))


def test_chips_that_do_the_same_are_alike_whatever_their_links_are_called() -> None:
    trace, topology = two_chips(slower_us=0)
    assert [chips.tolist() for chips in group_identical_chips(trace, topology)] == [[0, 1]]
    trace, topology = two_chips(slower_us=1)
    assert [chips.tolist() for chips in group_identical_chips(trace, topology)] == [[0], [1]]


def test_lanes_of_a_chip() -> None:
    trace, topology = two_chips()
    lanes = build_lanes(trace, topology, [1])[1]
    assert [lane.label for lane in lanes] == ["compute", "collectives", "x+", "x-"]
    compute, collectives, forward, backward = lanes
    assert (compute.spans.end // 1_000_000).tolist() == [10, 20, 32]
    assert (collectives.spans.start // 1_000_000).tolist() == [0, 10, 16]
    assert (collectives.exposed.start // 1_000_000).tolist() == [10, 20]
    assert (collectives.exposed.end // 1_000_000).tolist() == [16, 26]
    assert (forward.spans.start // 1_000_000).tolist() == [1, 11, 17]
    assert len(backward.spans) == 0


def test_collectives_in_progress_at_once_get_rows_of_their_own() -> None:
    topology = ring(2)
    builder = ProgramBuilder(["0:compute", "1:compute"])
    for op in ("all_gather(x) a", "all_gather(x) b"):
        number = builder.new_collective()
        builder.add(op, Kind.BEGIN, [0], labels=Labels(collective=number))
        builder.add(op, Kind.END, [0], labels=Labels(collective=number))
    start = np.array([0, 10, 5, 15])
    lanes = build_lanes(Trace.from_start_times(builder.build(), start, start), topology, [0])[0]
    rows = [lane.spans.start.tolist() for lane in lanes if lane.kind == "collectives"]
    assert rows == [[0], [5]]


def test_layers_begin_where_the_one_before_ends() -> None:
    trace, _ = two_chips(layers=3, slower_us=0)
    assert (layer_times(trace, 0).edges // 1_000_000).tolist() == [0, 30, 60, 90]


def test_shares_of_bins() -> None:
    # Spans 0-4 and 5-15 in bins of 10: 4 + 5 of the first, 5 of the second, nothing of the third.
    spans = sp.Spans(np.arange(2), np.zeros(2, dtype=int), np.array([0, 5]), np.array([4, 15]))
    np.testing.assert_allclose(sp.coverage(spans, np.array([0, 10, 20, 30])), [0.9, 0.5, 0])


LONG_PS = 2**62 + 1
"""A float does not hold every whole picosecond beyond 2**53; two such lanes, end to end, do not fit the clock."""


def test_lengths_of_long_spans_are_exact() -> None:
    """1 + (2**62 + 1) - 1: in floating point the first picosecond would be lost."""
    spans = sp.Spans(np.arange(3), np.array([5, 5, 0]), np.array([0, 1, 7]), np.array([1, LONG_PS, 8]))
    assert sp.lengths(spans, 6).tolist() == [1, 0, 0, 0, 0, LONG_PS]


def test_the_union_of_long_spans_on_many_lanes() -> None:
    lanes = np.repeat(np.arange(100), 3)
    start, end = np.tile([LONG_PS, 0, LONG_PS - 3], 100), np.tile([LONG_PS + 4, 2, LONG_PS + 1], 100)
    union = sp.union(sp.Spans(np.arange(300), lanes, start, end))
    assert union.lane.tolist() == np.repeat(np.arange(100), 2).tolist()
    assert union.start.tolist() == [0, LONG_PS - 3] * 100
    assert union.end.tolist() == [2, LONG_PS + 4] * 100


def test_durations_that_add_up_to_more_than_the_clock_counts_are_refused() -> None:
    spans = sp.Spans(np.arange(2), np.zeros(2, dtype=int), np.zeros(2, dtype=int), np.array([LONG_PS, LONG_PS]))
    with pytest.raises(OverflowError):
        sp.lengths(spans, 1)
