"""Times of a ledger on a machine: every operation at what it costs, every collective by a formula.

`per_operation` lets operations and collectives follow each other, each operation at its own roofline and overhead;
under Ladder, with collectives on a stream of their own, the sum of a half and the next half start together, and the one
after that waits for both. Where nothing is left out (`KNOWN`) and every collective has an exact formula, the simulation
equals it.

`usual` is how tensor parallelism is usually modelled: a half computes at max(FLOPs / rate, weights and cache / memory
bandwidth), then its sum is made. With h the time of a half and c that of its sum:

    standard, desync  h + c, c where the sum is kept
    parallel          both halves in one, one c
    ladder            max(h of the next half, c): nothing of a sum is exposed where the next half takes longer
    no_communication  h

A looped matmul (Pope et al. 2022, section 3.5) of pieces of p and shards that take s to the next chip, o overlap, takes

    p + (K-1) (max(p, s) + (1 - o) min(p, s))

on a ring of K chips; with a first piece that reads no sums, and a launch. A shard is V/(2K) of the gathered bytes each
way, V/K where there is one way only. All times are in seconds.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import mul

from sim.closed_form.book import Communication, Half, Loop, Op, Volume
from sim.closed_form.ledger import ledger
from sim.closed_form.prediction import Prediction
from sim.closed_form.scope import ANY, KNOWN, left_out
from sim.specs import Scenario

Times = Mapping[str, float]
"""Of what has a name, s."""


def usual(scenario: Scenario, to: Communication) -> Prediction:
    """Halves at max(FLOPs, weights and cache), collectives after them or, under Ladder, beside the next half."""

    def compute(half: Half) -> Times:
        ops = [op for op in half.entries if isinstance(op, Op) and not op.apart]
        flops = sum(op.flops / _rate(scenario, op) for op in ops)
        return {"compute": max(flops, sum(op.read / _memory(scenario, op) for op in ops))}

    plain = scenario.model_copy(update={"layout": scenario.layout.model_copy(update={"overlap": "none"})})
    terms, _ = _pass(scenario, to, ledger(plain, to).halves, compute)
    return Prediction(sum(terms.values()), terms, ("leaves out overheads and what each operation of a half waits for",))


def per_operation(scenario: Scenario, to: Communication) -> Prediction:
    """Every operation at its own roofline and overhead; of Ladder's sums what the next half does not hide."""

    def compute(half: Half) -> Times:
        found = defaultdict[str, float](float)
        for entry in half.entries:
            if isinstance(entry, Op):
                found[entry.name] += op_s(scenario, entry)
            elif isinstance(entry, Loop):
                found[entry.volume.name] += _LOOPS[entry.moves](scenario, to, entry)
        return found

    book = ledger(scenario, to)
    terms, inexact = _pass(scenario, to, book.halves, compute)
    if (host := scenario.stack.step_overhead.value) and scenario.layout.logits != "none":
        terms["host"] = host
    beside = scenario.communication_streams > 0 and any(map(_volumes, book.halves))
    reasons = [*left_out(scenario, KNOWN if beside else {**KNOWN, "stack.stream_wait": ANY}), *inexact]
    if beside and not book.in_turn:
        reasons.append("assumes that nothing runs beside collectives on their own stream but Ladder's next half")
    loops = [entry for half in book.halves for entry in half.entries if isinstance(entry, Loop)]
    around = dict.fromkeys(axis for loop in loops for axis in loop.volume.axes if to.lengths[axis] > 1)
    reasons += [reason for axis in around for reason in to.hop(axis, 0.0)[1]]
    if any(_two_way(scenario, to, entry) for entry in loops) and loop_form(scenario) == "bidirectional_latency":
        reasons.append("takes loops of bidirectional_latency for bidirectional_throughput")
    return Prediction(sum(terms.values()), terms, tuple(reasons))


def _volumes(half: Half) -> list[Volume]:
    """Collectives that are not looped."""
    return [entry for entry in half.entries if isinstance(entry, Volume)]


def _pass(
    scenario: Scenario, to: Communication, halves: Sequence[Half], compute: Callable[[Half], Times]
) -> tuple[dict[str, float], list[str]]:
    """(times by name, of collectives what nothing hides; why formulas of collectives are not exact).

    Args:
        compute: times of all but `_volumes` in a half, by name.
    """
    each = {id(half): half for half in halves}
    own = {number: compute(half) for number, half in each.items()}
    under = [scenario.communication_streams > 0 and half.hidden for half in halves]
    counts = Counter(zip(map(id, halves), [*map(id, halves[1:]), 0], under, strict=True))
    terms, exposed = defaultdict[str, float](float), defaultdict[str, float](float)
    inexact: dict[str, None] = {}
    for (number, after, hidden), count in counts.items():
        for name, time in own[number].items():
            terms[name] += count * time
        for volume in _volumes(each[number]):
            time, reasons = to.collective(volume.collective, volume.axes, volume.bytes)
            if hidden and volume is each[number].entries[-1]:
                time = max(0.0, time - sum(own[after].values()))
            exposed[f"{volume.name} {volume.collective.replace('_', '-')}"] += count * time
            inexact |= dict.fromkeys(reasons)
    return {**terms, **exposed}, [*inexact]


# --- one operation ---------------------------------------------------------------------------------------------------


def _rate(scenario: Scenario, op: Op) -> float:
    chip, stack = scenario.topology.chip, scenario.stack
    if op.vector and chip.vector_peak:
        return chip.vector_peak.value * stack.vector_efficiency.value
    reached = stack.collective_matmul_efficiency.value if op.collective else 1.0
    return chip.peak[scenario.workload.activations].value * stack.matmul_efficiency.value * reached


def _memory(scenario: Scenario, op: Op) -> float:
    stack = scenario.stack
    reached = stack.matmul_hbm_efficiency if op.tiled and stack.matmul_hbm_efficiency else stack.hbm_efficiency
    if op.converts and stack.dequantizing_hbm_efficiency:
        reached = stack.dequantizing_hbm_efficiency
    return scenario.topology.chip.hbm_bandwidth.value * reached.value


def op_s(scenario: Scenario, op: Op) -> float:
    """FLOPs or bytes, whichever take longer, what of the other does not pass under them, and the overhead, s."""
    stack = scenario.stack
    copies = op.copies / (stack.l2_speed.value * scenario.topology.chip.hbm_bandwidth.value) if stack.l2_speed else 0.0
    compute, memory = op.flops / _rate(scenario, op), max((op.read + op.moved) / _memory(scenario, op), copies)
    overhead = stack.matmul_overhead if op.tiled and stack.matmul_overhead else stack.op_overhead
    return max(compute, memory) + _held(scenario, compute, memory) + overhead.value


def _held(scenario: Scenario, one: float, other: float) -> float:
    """What two times that run beside each other take longer than the longer of them."""
    return (1 - scenario.stack.roofline_overlap.value) * min(one, other)


# --- loops -----------------------------------------------------------------------------------------------------------


def loop_form(scenario: Scenario) -> str:
    """How shards go around a ring."""
    default = "bidirectional_latency" if scenario.workload.phase == "decode" else "bidirectional_throughput"
    return scenario.collectives.get("collective_matmul", scenario.stack.loop_form or default)


def _two_way(scenario: Scenario, to: Communication, loop: Loop) -> bool:
    return loop.moves != "weights" and to.is_ring(loop.volume.axes[0]) and loop_form(scenario) != "one_way"


def _pieces(scenario: Scenario, loop: Loop) -> list[float]:
    return [sum(op_s(scenario, op) for op in piece) for piece in loop.pieces]


def _shift(scenario: Scenario, to: Communication, loop: Loop) -> float:
    """Time of one hop of a shard of a loop over one axis, s."""
    (axis,) = loop.volume.axes
    return to.hop(axis, loop.volume.bytes / to.lengths[axis] / (2 if _two_way(scenario, to, loop) else 1))[0]


def _gathering(scenario: Scenario, to: Communication, loop: Loop) -> float:
    """An all-gather looped with a matmul: each piece waits for its shard."""
    pieces, shift, launch = (
        _pieces(scenario, loop),
        _shift(scenario, to, loop),
        scenario.stack.collective_overhead.value,
    )
    done, arrived = 0.0, launch
    for i, piece in enumerate(pieces):
        held = _held(scenario, piece, shift) if i + 1 < len(pieces) else 0.0
        done = max(done, arrived if i else 0.0) + piece + held
        arrived += shift + held
    return done


def _scattering(scenario: Scenario, to: Communication, loop: Loop) -> float:
    """A matmul looped with the reduce-scatter of its output: a piece is sent on, added to what came, under the next."""
    pieces, shift = _pieces(scenario, loop), _shift(scenario, to, loop)
    done, arrived = pieces[0], pieces[0] + scenario.stack.collective_overhead.value
    for piece in pieces[1:]:
        held = _held(scenario, piece, shift)
        arrived = max(arrived, done) + shift + held
        done += piece + held
    return max(done, arrived)


def _weights(scenario: Scenario, to: Communication, loop: Loop) -> float:
    """Pieces that each multiply with a shard while it moves on, first along the first axis."""
    axes = [axis for axis in loop.volume.axes if to.lengths[axis] > 1]
    periods = list(accumulate((to.lengths[axis] for axis in axes), mul))
    pieces, launch = _pieces(scenario, loop), scenario.stack.collective_overhead.value
    total = pieces[-1]
    for number, piece in enumerate(pieces[:-1], start=1):
        along = axes[next(i for i, period in enumerate(periods) if number % period)]
        shift, _ = to.hop(along, loop.volume.bytes / len(pieces))
        total += max(piece, shift + (launch if number == 1 else 0.0)) + _held(scenario, piece, shift)
    return total


_LOOPS: Mapping[str, Callable[[Scenario, Communication, Loop], float]] = {
    "in": _gathering,
    "out": _scattering,
    "weights": _weights,
}
