"""Consistency checks of every simulation, in time linear in its messages.

- A message is on links that follow each other from its sender to its receiver, with the same bytes on each, so that
  what leaves the chips arrives at them.
- No link carries a message, or all of its messages together, above its rate.
- No message is past a link before its last byte has come from the link before.
- No collective in all groups along mesh axes is faster than its links allow (`sim.topology.lower_bound`).
"""

from __future__ import annotations

import numpy as np

from sim.program import Kind, Program
from sim.program.trace import Trace
from sim.topology.graph import Topology
from sim.topology.lower_bound import COLLECTIVES as BOUNDED
from sim.topology.lower_bound import lower_bound
from sim.units import PS_PER_S

_ROUNDED_PS = 1.0
"""Tolerance of a rounded time, ps."""
_RELATIVE = 1e-9
"""Relative tolerance of sums of floating-point numbers."""


class InconsistencyError(RuntimeError):
    """A simulation in which a message or a link does what none can: an error of this program or of a plug-in."""


def check(trace: Trace, topology: Topology) -> None:
    """Raises InconsistencyError, which names the first link that breaks a rule.

    Args:
        trace: of `topology`, whose links are the resources after those of its chips.
    """
    program = trace.program
    link = program.resource.astype(np.int64) - topology.chips
    sends = np.flatnonzero((program.kind == Kind.SEND) & (link >= 0) & (link < len(topology.links)))
    _check_ways(program, topology, sends, link)
    _check_rates(trace, topology, sends, link[sends])
    later = sends[program.follows[sends] >= 0]
    early = trace.times["end"][later] < trace.times["end"][program.follows[later]]
    _refuse(program, topology, later, link[later], early, "is past a message before its last byte has come")
    _check_bounds(trace, topology)


def _check_ways(program: Program, topology: Topology, sends: np.ndarray, link: np.ndarray) -> None:
    """Raises InconsistencyError where a message jumps, or changes its size on its way."""
    ends = np.array([(each.src, each.dst) for each in topology.links], dtype=np.int64).reshape(-1, 2)
    later = sends[program.follows[sends] >= 0]
    before = program.follows[later]
    jumps = ends[link[before], 1] != ends[link[later], 0]
    _refuse(program, topology, later, link[later], jumps, "does not begin where the message has come to")
    changed = program.bytes[before] != program.bytes[later]
    _refuse(program, topology, later, link[later], changed, "carries other bytes than the link before it")
    if topology.reduction.enabled:
        return  # a switch that adds up sends other bytes than it is sent
    first = sends[program.follows[sends] < 0]
    followed = np.zeros(len(program), dtype=np.bool_)
    followed[before] = True
    last = sends[~followed[sends]]
    _refuse(program, topology, first, link[first], ends[link[first], 0] != program.chip[first], "is not the sender's")
    strays = ends[link[last], 1] != program.peer[last]
    _refuse(program, topology, last, link[last], strays, "does not lead to the receiver")


def _check_rates(trace: Trace, topology: Topology, sends: np.ndarray, link: np.ndarray) -> None:
    program, times = trace.program, trace.times
    rate = np.array([each.bandwidth for each in topology.links])
    least_ps = program.bytes[sends] / rate[link] * PS_PER_S
    held_ps = times["free"][sends] - times["start"][sends]
    _refuse(program, topology, sends, link, _below(held_ps, least_ps, 1), "carries a message above its rate")
    first = np.full(len(rate), np.iinfo(np.int64).max)
    np.minimum.at(first, link, times["start"][sends])
    last, carried_ps = np.zeros(len(rate), dtype=np.int64), np.bincount(link, least_ps, minlength=len(rate))
    np.maximum.at(last, link, times["free"][sends])
    messages = np.bincount(link, minlength=len(rate))
    above = (messages > 0) & _below(last - np.minimum(first, last), carried_ps, messages)
    _refuse(program, topology, sends, link, above[link], "carries all its messages together above its rate")


def _check_bounds(trace: Trace, topology: Topology) -> None:
    """Raises InconsistencyError where a collective of all chips takes less than its bound.

    Those of a pipeline's stages, machines of their own, are not looked at.
    """
    program, times, axes_of = trace.program, trace.times, dict(trace.program.axes)
    names = {axis.name for axis in topology.mesh}
    begins = np.flatnonzero(program.kind == Kind.BEGIN)
    of, first, instance, chips = np.unique(
        program.collective[begins], return_index=True, return_inverse=True, return_counts=True
    )
    if not (chips == topology.chips).any():
        return
    begun = np.full(len(of), np.iinfo(np.int64).max)
    np.minimum.at(begun, instance, times["start"][begins])
    finals = np.flatnonzero(program.kind == Kind.END)
    ended = np.zeros(len(of), dtype=np.int64)
    np.maximum.at(ended, np.searchsorted(of, program.collective[finals]), times["end"][finals])
    kinds = np.stack((program.op[begins[first]].astype(np.float64), program.bytes[begins[first]]))
    distinct, kind = np.unique(kinds[:, chips == topology.chips], axis=1, return_inverse=True)
    least = np.full(distinct.shape[1], np.inf)
    np.minimum.at(least, kind.ravel(), (ended - begun)[chips == topology.chips].astype(np.float64))
    for (op, size), taken_ps in zip(distinct.T.tolist(), least.tolist(), strict=True):
        name = program.op_names[int(op)]
        collective, axes = name.partition("(")[0], axes_of.get(name, ())
        if collective not in BOUNDED or not axes or not names.issuperset(axes):
            continue
        bound_ps = lower_bound(topology.unfold(), collective, axes, size) * PS_PER_S
        if taken_ps < bound_ps * (1 - _RELATIVE) - _ROUNDED_PS:
            raise InconsistencyError(f"{name} of {size:g} bytes takes {taken_ps:g} ps, and its links need {bound_ps:g}")


def _below(held_ps: np.ndarray, least_ps: np.ndarray, messages: np.ndarray | int) -> np.ndarray:
    return np.asarray(held_ps < least_ps * (1 - _RELATIVE) - _ROUNDED_PS * messages)


def _refuse(
    program: Program, topology: Topology, sends: np.ndarray, link: np.ndarray, wrong: np.ndarray, what: str
) -> None:
    if wrong.any():
        first = int(np.argmax(wrong))
        name = topology.links[int(link[first])].name
        raise InconsistencyError(f"link {name} {what}: {program.describe(int(sends[first]))}")
