"""Time of one forward pass: every operation at its cost on one chip, every collective by a formula.

`predict_per_operation` runs operations and collectives one after the other, each operation at its own roofline and
overhead. With collectives on a stream of their own, shared experts run beside the dispatch or combine of routed ones.
Under Ladder, with collectives on a stream of their own, the sum of a sublayer overlaps the next sublayer, and
the one after that waits for both. If nothing is left out (`coverage`) and every collective has an exact formula, the
simulation takes the same time.

`predict_per_sublayer` is the usual model of tensor parallelism: a sublayer computes for max(FLOPs / rate, weights and
cache / memory bandwidth), then its sum is reduced. With h the time of a sublayer and c that of its sum:

    standard, desync  h + c; c only where the sum is reduced
    parallel          attention and FFN in one sublayer, one c
    ladder            max(h of the next sublayer, c): no sum is exposed where the next sublayer takes longer
    no_communication  h

A looped matmul (Pope et al. 2022, section 3.5) of pieces of p and shards that take s to the next chip, o overlap, takes

    p + (K-1) (max(p, s) + (1 - o) min(p, s))

on a ring of K chips; with a first piece that reads no sums, and a launch. A shard is V/(2K) of the gathered bytes each
way, V/K where there is one way only. All times are in seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from operator import mul

from sim.closed_form.coverage import ANY_VALUE, COVERED, list_omissions
from sim.closed_form.operation_counts import count_operations
from sim.closed_form.operations import CollectiveOp, CommunicationModel, LoopedMatmul, Op, Sublayer
from sim.closed_form.prediction import Prediction
from sim.specs import Scenario, StackSpec

Times = Mapping[str, float]
"""Times by name, s."""


def predict_per_sublayer(scenario: Scenario, communication: CommunicationModel) -> Prediction:
    """Predicts sublayers at max(FLOPs, weights and cache), and their sums after them or beside the next (Ladder)."""

    def compute_times(sublayer: Sublayer) -> Times:
        ops = [op for op in sublayer.operations if isinstance(op, Op) and not op.is_elementwise]
        flops_s = sum(op.flops / _flops_rate(scenario, op) for op in ops)
        return {"compute": max(flops_s, sum(op.read_bytes / _memory_rate(scenario, op) for op in ops))}

    unlooped = scenario.model_copy(update={"layout": scenario.layout.model_copy(update={"overlap": "none"})})
    operations = count_operations(unlooped, communication)
    terms, _ = _add_up(scenario, communication, operations.sublayers, compute_times)
    omitted = "leaves out overheads and the dependencies between the operations of a sublayer"
    return Prediction(sum(terms.values()), terms, (omitted,))


def predict_per_operation(
    scenario: Scenario, communication: CommunicationModel, unread: Iterable[str] = ()
) -> Prediction:
    """Predicts every operation at its own roofline and overhead, and the exposed part of Ladder's sums.

    Args:
        unread: fields that have no effect on this scenario (`sim.specs.unread`).
    """

    def compute_times(sublayer: Sublayer) -> Times:
        times = defaultdict[str, float](float)
        for operation in sublayer.operations:
            if isinstance(operation, Op):
                times[operation.name] += op_s(scenario, operation)
            elif isinstance(operation, LoopedMatmul):
                times[operation.collective.name] += _LOOPS[operation.moves](scenario, communication, operation)
        return times

    operations = count_operations(scenario, communication)
    terms, inexact = _add_up(scenario, communication, operations.sublayers, compute_times)
    if (host := scenario.stack.step_overhead.value) and scenario.layout.logits != "none":
        terms["host"] = host
    has_streams = scenario.communication_streams > 0 and any(map(_separate_collectives, operations.sublayers))
    covered = COVERED if has_streams else {**COVERED, "stack.stream_wait": ANY_VALUE}
    reasons = [*list_omissions(scenario, covered, unread), *inexact]
    if has_streams and not operations.is_serial:
        reasons.append("assumes that collectives on their own stream overlap only Ladder's next sublayer")
    loops = [operation for operation in operations.operations if isinstance(operation, LoopedMatmul)]
    loop_axes = dict.fromkeys(
        axis for loop in loops for axis in loop.collective.axes if communication.lengths[axis] > 1
    )
    reasons += [reason for axis in loop_axes for reason in communication.hop(axis, 0.0)[1]]
    goes_both_ways = any(_is_bidirectional(scenario, communication, loop) for loop in loops)
    if goes_both_ways and loop_form(scenario) == "bidirectional_latency":
        reasons.append("approximates loops of bidirectional_latency by bidirectional_throughput")
    return Prediction(sum(terms.values()), terms, tuple(reasons))


def _separate_collectives(sublayer: Sublayer) -> list[CollectiveOp]:
    """Returns the collectives that are not looped."""
    return [operation for operation in sublayer.operations if isinstance(operation, CollectiveOp)]


def _add_up(
    scenario: Scenario,
    communication: CommunicationModel,
    sublayers: Sequence[Sublayer],
    compute_times: Callable[[Sublayer], Times],
) -> tuple[dict[str, float], list[str]]:
    """Returns times by name, of collectives the exposed part, and why formulas of collectives are not exact.

    Args:
        compute_times: times by name of all operations of a sublayer but `_separate_collectives`.
    """
    distinct = {id(sublayer): sublayer for sublayer in sublayers}
    compute = {key: compute_times(sublayer) for key, sublayer in distinct.items()}
    overlapped = [scenario.communication_streams > 0 and sublayer.overlaps_next for sublayer in sublayers]
    counts = Counter(zip(map(id, sublayers), [*map(id, sublayers[1:]), 0], overlapped, strict=True))
    terms, exposed = defaultdict[str, float](float), defaultdict[str, float](float)
    inexact: dict[str, None] = {}
    for (key, next_key, is_overlapped), count in counts.items():
        for name, time in compute[key].items():
            terms[name] += count * time
        for collective in _separate_collectives(distinct[key]):
            time, reasons = communication.collective(collective.kind, collective.axes, collective.bytes)
            if scenario.communication_streams:
                time = max(0.0, time - sum(compute_times(Sublayer(collective.beside)).values()))
            if is_overlapped and collective is distinct[key].operations[-1]:
                time = max(0.0, time - sum(compute[next_key].values()))
            exposed[f"{collective.name} {collective.kind.replace('_', '-')}"] += count * time
            inexact |= dict.fromkeys(reasons)
    return {**terms, **exposed}, [*inexact]


# --- one operation ---------------------------------------------------------------------------------------------------


def _flops_rate(scenario: Scenario, op: Op) -> float:
    chip, stack = scenario.topology.chip, scenario.stack
    if op.on_vector_units and chip.vector_peak:
        return chip.vector_peak.value * stack.vector_efficiency.value
    reached = stack.collective_matmul_efficiency.value if op.with_collective else 1.0
    own = {"attention": stack.attention_efficiency, "grouped": stack.grouped_efficiency}.get(op.kernel)
    efficiency = (own or stack.matmul_efficiency).value
    return chip.peak[op.rate_format or scenario.workload.activations].value * efficiency * reached


def _memory_rate(scenario: Scenario, op: Op) -> float:
    stack = scenario.stack
    reached = stack.matmul_hbm_efficiency if op.is_tiled and stack.matmul_hbm_efficiency else stack.hbm_efficiency
    if op.converts_weights and stack.dequantizing_hbm_efficiency:
        reached = stack.dequantizing_hbm_efficiency
    return scenario.topology.chip.hbm_bandwidth.value * reached.value


def op_s(scenario: Scenario, op: Op) -> float:
    """Returns the longer of FLOPs and bytes, the exposed share of the shorter, and the overhead, s."""
    stack = scenario.stack
    l2_s = op.l2_bytes / (stack.l2_speed.value * scenario.topology.chip.hbm_bandwidth.value) if stack.l2_speed else 0.0
    flops_s = op.flops / _flops_rate(scenario, op)
    memory_s = max((op.read_bytes + op.activation_bytes) / _memory_rate(scenario, op), l2_s)
    own = stack.attention_overlap if op.kernel == "attention" else None
    exposed = 1 - (own or stack.roofline_overlap).value
    return max(flops_s, memory_s) + exposed * min(flops_s, memory_s) + _overhead_s(stack, op)


def _overhead_s(stack: StackSpec, op: Op) -> float:
    """Returns the fixed time of a launch, s."""
    own = {"attention": stack.attention_overhead, "grouped": stack.grouped_overhead}.get(op.kernel)
    matmul = stack.matmul_overhead if op.is_tiled else None
    return (own or matmul or stack.op_overhead).value


def _exposed_s(scenario: Scenario, first_s: float, second_s: float) -> float:
    """Returns the share of the shorter of two concurrent times that the longer does not hide, s."""
    return (1 - scenario.stack.roofline_overlap.value) * min(first_s, second_s)


# --- loops -----------------------------------------------------------------------------------------------------------


def loop_form(scenario: Scenario) -> str:
    """Returns the form of looped matmuls on a ring."""
    default = "bidirectional_latency" if scenario.workload.phase == "decode" else "bidirectional_throughput"
    return scenario.collectives.get("collective_matmul", scenario.stack.loop_form or default)


def _is_bidirectional(scenario: Scenario, communication: CommunicationModel, loop: LoopedMatmul) -> bool:
    return (
        loop.moves != "weights" and communication.is_ring(loop.collective.axes[0]) and loop_form(scenario) != "one_way"
    )


def _piece_times(scenario: Scenario, loop: LoopedMatmul) -> list[float]:
    return [sum(op_s(scenario, op) for op in piece) for piece in loop.pieces]


def _hop_time(scenario: Scenario, communication: CommunicationModel, loop: LoopedMatmul) -> float:
    """Returns the time of one hop of a shard of a loop over one axis, s."""
    (axis,) = loop.collective.axes
    directions = 2 if _is_bidirectional(scenario, communication, loop) else 1
    return communication.hop(axis, loop.collective.bytes / communication.lengths[axis] / directions)[0]


def _gathering_loop_s(scenario: Scenario, communication: CommunicationModel, loop: LoopedMatmul) -> float:
    """Returns the time of an all-gather looped with a matmul: each piece waits for its shard."""
    pieces, hop = _piece_times(scenario, loop), _hop_time(scenario, communication, loop)
    done, arrived = 0.0, scenario.stack.collective_overhead.value
    for i, piece in enumerate(pieces):
        exposed = _exposed_s(scenario, piece, hop) if i + 1 < len(pieces) else 0.0
        done = max(done, arrived if i else 0.0) + piece + exposed
        arrived += hop + exposed
    return done


def _scattering_loop_s(scenario: Scenario, communication: CommunicationModel, loop: LoopedMatmul) -> float:
    """Returns the time of a matmul looped with the reduce-scatter of its output: a sum is sent under the next piece."""
    pieces, hop = _piece_times(scenario, loop), _hop_time(scenario, communication, loop)
    done, arrived = pieces[0], pieces[0] + scenario.stack.collective_overhead.value
    for piece in pieces[1:]:
        exposed = _exposed_s(scenario, piece, hop)
        arrived = max(arrived, done) + hop + exposed
        done += piece + exposed
    return max(done, arrived)


def _weight_loop_s(scenario: Scenario, communication: CommunicationModel, loop: LoopedMatmul) -> float:
    """Returns the time of pieces that each multiply with a shard while it is passed on, first along the first axis."""
    axes = [axis for axis in loop.collective.axes if communication.lengths[axis] > 1]
    periods = list(accumulate((communication.lengths[axis] for axis in axes), mul))
    pieces, launch = _piece_times(scenario, loop), scenario.stack.collective_overhead.value
    total = pieces[-1]
    for number, piece in enumerate(pieces[:-1], start=1):
        along = axes[next(i for i, period in enumerate(periods) if number % period)]
        hop, _ = communication.hop(along, loop.collective.bytes / len(pieces))
        total += max(piece, hop + (launch if number == 1 else 0.0)) + _exposed_s(scenario, piece, hop)
    return total


_LOOPS: Mapping[str, Callable[[Scenario, CommunicationModel, LoopedMatmul], float]] = {
    "in": _gathering_loop_s,
    "out": _scattering_loop_s,
    "weights": _weight_loop_s,
}
