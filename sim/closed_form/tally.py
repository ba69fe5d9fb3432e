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

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from operator import mul
from typing import Protocol

from sim.closed_form.ledger import Entry, Half, Ledger, Loop, Op, Volume, ledger, volume_of
from sim.closed_form.prediction import Prediction
from sim.closed_form.scope import ANY, KNOWN, left_out
from sim.specs import Scenario
from sim.uses import Axes, Uses


class Communication(Protocol):
    """What formulas say of messages between the chips of a mesh."""

    @property
    def at(self) -> Uses:
        """What each mesh axis does."""

    @property
    def lengths(self) -> Mapping[str, int]:
        """Mesh axes and their lengths."""

    def collective(self, kind: str, axes: Axes, size: float) -> tuple[float, tuple[str, ...]]:
        """(time of a collective of `size` bytes in every group along some axes, s, why it is not exact)."""

    def hop(self, axis: str, size: float) -> tuple[float, tuple[str, ...]]:
        """(time of `size` bytes from a chip to the next along an axis, s, why a loop of these is not exact)."""

    def is_ring(self, axis: str) -> bool:
        """Whether an axis is a ring of links, around which shards go both ways."""

    def closes(self, axis: str) -> bool:
        """Whether shards can go around an axis: a ring, two chips that swap theirs, or by routes."""


def ledger_of(scenario: Scenario, to: Communication) -> Ledger:
    """The ledger of a scenario. Raises InputError: chips that do not divide what they share."""
    return ledger(scenario, to.at, to.lengths, to.closes)


def usual(scenario: Scenario, to: Communication) -> Prediction:
    """Halves at max(FLOPs, weights and cache), collectives after them or, under Ladder, beside the next half."""

    def compute(half: Half) -> dict[str, float]:
        ops = [op for entry in half.entries for op in _launches(entry) if not op.apart]
        flops = sum(op.flops / _rate(scenario, op) for op in ops)
        return {"compute": max(flops, sum(op.read / _memory(scenario, op) for op in ops))}

    halves = ledger_of(scenario, to).halves
    volumes = {id(half): [each for entry in half.entries if (each := volume_of(entry))] for half in halves}
    terms, _ = _pass(scenario, to, halves, compute, volumes)
    return Prediction(sum(terms.values()), terms, ("leaves out overheads and what each operation of a half waits for",))


def per_operation(scenario: Scenario, to: Communication) -> Prediction:
    """Every operation at its own roofline and overhead; of Ladder's sums what the next half does not hide."""

    def compute(half: Half) -> dict[str, float]:
        found: dict[str, float] = {}
        for entry in half.entries:
            if isinstance(entry, Op):
                found[entry.name] = found.get(entry.name, 0.0) + op_s(scenario, entry)
            elif isinstance(entry, Loop):
                name = entry.volume.name
                found[name] = found.get(name, 0.0) + _LOOPS[entry.moves](scenario, to, entry)
        return found

    book = ledger_of(scenario, to)
    volumes = {id(half): [entry for entry in half.entries if isinstance(entry, Volume)] for half in book.halves}
    terms, inexact = _pass(scenario, to, book.halves, compute, volumes)
    if (host := scenario.stack.step_overhead.value) and scenario.layout.logits != "none":
        terms["host"] = host
    beside = scenario.communication_streams > 0 and any(volumes.values())
    reasons = [*left_out(scenario, KNOWN if beside else {**KNOWN, "stack.stream_wait": ANY}), *inexact]
    if beside and not book.in_turn:
        reasons.append("assumes that nothing runs beside collectives on their own stream but Ladder's next half")
    loops = [entry for half in book.halves for entry in half.entries if isinstance(entry, Loop)]
    around = dict.fromkeys(axis for loop in loops for axis in loop.volume.axes if to.lengths[axis] > 1)
    reasons += [reason for axis in around for reason in to.hop(axis, 0.0)[1]]
    if any(_two_way(scenario, to, entry) for entry in loops) and loop_form(scenario) == "bidirectional_latency":
        reasons.append("takes loops of bidirectional_latency for bidirectional_throughput")
    return Prediction(sum(terms.values()), terms, tuple(reasons))


def _pass(
    scenario: Scenario,
    to: Communication,
    halves: Sequence[Half],
    compute: Callable[[Half], dict[str, float]],
    volumes: Mapping[int, Sequence[Volume]],
) -> tuple[dict[str, float], dict[str, None]]:
    """(times by name, of collectives what nothing hides; why formulas of collectives are not exact).

    Args:
        compute: times of all else in a half, by name.
        volumes: collectives that are not looped, by the number of their half.
    """
    each = {id(half): half for half in halves}
    own = {number: compute(half) for number, half in each.items()}
    next_to = [
        (half, after if half.hidden and scenario.communication_streams > 0 else None)
        for half, after in _in_pairs(halves)
    ]
    terms: dict[str, float] = {}
    exposed: dict[str, float] = {}
    inexact: dict[str, None] = {}
    for (number, after), count in Counter((id(half), id(after) if after else 0) for half, after in next_to).items():
        for name, time in own[number].items():
            terms[name] = terms.get(name, 0.0) + count * time
        for volume in volumes[number]:
            name, (time, reasons) = (
                f"{volume.name} {volume.collective.replace('_', '-')}",
                to.collective(volume.collective, volume.axes, volume.bytes),
            )
            if after and volume is each[number].entries[-1]:
                time = max(0.0, time - sum(own[after].values()))
            exposed[name] = exposed.get(name, 0.0) + count * time
            inexact.update(dict.fromkeys(reasons))
    return terms | exposed, inexact


def _in_pairs(halves: Sequence[Half]) -> list[tuple[Half, Half | None]]:
    return list(zip(halves, [*halves[1:], None], strict=True))


# --- one operation ---------------------------------------------------------------------------------------------------


def _launches(entry: Entry) -> Iterator[Op]:
    if isinstance(entry, Op):
        yield entry
    elif isinstance(entry, Loop):
        for piece in entry.pieces:
            yield from piece


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
