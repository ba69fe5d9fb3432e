"""Compares the kernel that NCCL's tuner chose with the others that the library has, all of them simulated."""

from __future__ import annotations

from collections.abc import Callable

from sim import units
from sim.collectives.nccl import kernels as library
from sim.topology.graph import Topology

Time = Callable[[str], float]
"""Time of the kernel, s."""
MUCH_SLOWER = 1.5
"""A choice that takes so many times the fastest kernel's time is told."""


def describe_slow_choice(
    topology: Topology, collective: str, chosen: str, time_s: float, least: Time, simulate: Time
) -> tuple[str, ...]:
    """Returns a sentence that names the fastest kernel where the tuner's choice takes much longer, else nothing.

    Args:
        time_s: simulated time of the chosen kernel.
        least: a time that a kernel takes at least, s; those whose least time is no much shorter one are not simulated.
        simulate: simulated time of a kernel, s.
    """
    best, best_s = chosen, time_s / MUCH_SLOWER
    others = [name for name in library.offered(topology, collective) if name != chosen]
    for least_s, name in sorted((least(name), name) for name in others):
        if least_s > best_s:
            break
        if (found_s := simulate(name)) <= best_s:
            best, best_s = name, found_s
    if best == chosen:
        return ()
    found, better = units.format_seconds(time_s), units.format_seconds(best_s)
    return (f"NCCL's tuner chose {chosen}, {found}; {best} is {time_s / best_s:.2f} times faster, {better}",)
