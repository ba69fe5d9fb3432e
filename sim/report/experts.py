"""Figures of the experts of a pass: rows of chips and their balance, and the exchange of tokens."""

from __future__ import annotations

import numpy as np
from msgspec import Struct

from sim.closed_form.expert_load import describe_omission, expect_fullest_rows
from sim.program import ExpertRows, Floats, Ints
from sim.report.metrics import Measures, PassTrace, sum_on_links
from sim.report.ops import EXCHANGES, parse_op
from sim.report.spans import collective_spans
from sim.specs import Scenario
from sim.units import PS_PER_S


class TokenExchange(Struct, frozen=True):
    """Dispatch or combine of tokens: bytes of one layer, times of one step on the critical chip."""

    way: str
    """`dispatch` or `combine`."""
    mean_bytes: float
    """Bytes that a chip sends, and receives, on average."""
    beyond_bytes: float
    """Bytes that a chip sends to other boxes on average, those to a box that forwards them once; 0 in one box."""
    most_bytes: float
    """Most bytes that a chip sends or receives."""
    most_chip: int
    most_direction: str
    """`sends` or `receives`."""
    busiest_link: str
    """Link that is busy longest with it, the first of them; empty where nothing was sent."""
    busiest_link_s: float
    """Time in one step for which that link is busy with it."""
    time_s: float
    exposed_s: float
    """Part of the time with no compute on the chip."""
    longest_s: float
    """Time on the chip on which it takes longest."""

    @property
    def exposed_share(self) -> float:
        """Exposed share of the time."""
        return self.exposed_s / self.time_s if self.time_s else 0.0


class ExpertsReport(Struct, frozen=True):
    """Rows that the experts of one layer multiply, and the exchange of tokens."""

    rows_mean: float
    """Rows of a chip."""
    rows_most: float
    busiest_chip: int
    """Chip with the most rows, the lowest of them."""
    balance: float
    """Mean over most rows (EPLB's balancedness)."""
    experts_held: int
    """Experts that a chip has, copies included."""
    experts_hit: float
    """Those of them that have a row, mean of the chips."""
    fullest_expert_rows: float
    expected_fullest_rows: float | None
    """Rows that the fullest expert would have if a load of this shape is drawn, by a closed form; None for a trace or
    copies of experts."""
    expected_leaves_out: str
    """What that closed form does not count, as `leaves out ...`; empty if nothing."""
    is_drawn: bool
    """False for a load of expected rows, such as uniform."""
    is_even: bool
    """True if all chips do the same."""
    compute_least_s: float
    """Compute of the chip that computes least, in one step."""
    compute_mean_s: float
    compute_most_s: float
    exchanges: tuple[TokenExchange, ...]


def report_experts(scenario: Scenario, measured: PassTrace, measures: Measures) -> ExpertsReport | None:
    """Returns the figures of a pass with experts, else None."""
    rows = measured.expert_rows
    if rows is None:
        return None
    of_chips, fullest = rows.of_chips, float(rows.held.max())
    expected, without = None, ""
    layout, routing = scenario.layout.experts, scenario.workload.routing
    is_chosen = routing.load != "perfect_router"  # else every expert has as many
    if scenario.model.experts and not layout.replicas and layout.capacity is None and is_chosen:
        expected = expect_fullest_rows(scenario.model.experts, routing, len(rows.held), float(rows.tokens))
        without = describe_omission(scenario.model.experts, routing)
    return ExpertsReport(
        rows_mean=float(of_chips.mean()),
        rows_most=float(of_chips.max()),
        busiest_chip=int(of_chips.argmax()),
        balance=float(of_chips.mean() / of_chips.max()) if of_chips.max() else 1.0,
        experts_held=rows.held.shape[1],
        experts_hit=float(rows.hit.mean()),
        fullest_expert_rows=fullest,
        expected_fullest_rows=expected,
        expected_leaves_out=without,
        is_drawn=scenario.workload.routing.is_drawn,
        is_even=rows.even,
        compute_least_s=float(measures.compute_s.min()),
        compute_mean_s=float(measures.compute_s.mean()),
        compute_most_s=float(measures.compute_s.max()),
        exchanges=tuple(_exchange(way, measured, measures, rows) for way in EXCHANGES if rows.groups.shape[1] > 1),
    )


def _exchange(way: str, measured: PassTrace, measures: Measures, rows: ExpertRows) -> TokenExchange:
    between = rows.bytes_between(way)
    sent, received = between.sum(axis=1), between.sum(axis=0)
    handled = np.maximum(sent, received)
    most = int(handled.argmax())
    busy_ps, _ = measure_links(measured, way)
    link = int(busy_ps.argmax())
    machine, ops = measured.topology, [op for op in measures.ops if parse_op(op.op).group == way]
    return TokenExchange(
        way=way,
        mean_bytes=float(sent.mean()),
        beyond_bytes=float(rows.beyond.mean()) * rows.row_bytes[way],
        most_bytes=float(handled[most]),
        most_chip=most,
        most_direction="sends" if sent[most] >= received[most] else "receives",
        busiest_link=machine.links[link].name if busy_ps[link] else "",
        busiest_link_s=float(busy_ps[link]) / PS_PER_S,
        time_s=sum(op.time_s for op in ops),
        exposed_s=sum(op.exposed_s for op in ops),
        longest_s=_longest_s(measured, way),
    )


def _longest_s(measured: PassTrace, way: str) -> float:
    """Returns the time that dispatches or combines take in one step, on the chip on which they take longest."""
    program = measured.trace.program
    spans = collective_spans(measured.trace)
    spans = spans.where(np.array([parse_op(name).group == way for name in program.op_names])[program.op[spans.task]])
    copies = measured.copies[spans.task]
    of_chips = np.bincount(spans.lane, weights=(spans.end - spans.start) * copies, minlength=1)
    return float(of_chips.max()) / PS_PER_S


def measure_links(measured: PassTrace, way: str) -> tuple[Ints, Floats]:
    """Returns [links] the time for which each is busy with dispatch or combine in one step, ps, and their bytes."""
    program = measured.trace.program
    return sum_on_links(measured, np.array([parse_op(name).group == way for name in program.op_names])[program.op])
