"""Compares the kernel that NCCL's tuner chose with the others that the library has, all of them simulated."""

from __future__ import annotations

from collections.abc import Callable

from sim import units
from sim.collectives import library
from sim.topology.graph import Topology

_MUCH_SLOWER = 1.5
"""A choice that takes so many times the fastest kernel's time is told."""


def describe_slow_choice(
    topology: Topology, collective: str, chosen: str, time_s: float, bound_s: float, simulate: Callable[[str], float]
) -> tuple[str, ...]:
    """Returns a sentence that names the fastest kernel where the tuner's choice takes much longer, else nothing.

    Args:
        time_s: simulated time of the chosen kernel.
        bound_s: no kernel is faster; where the choice is not much slower than that, nothing is simulated.
        simulate: simulated time of a kernel, s.
    """
    if time_s < _MUCH_SLOWER * bound_s:
        return ()
    times = {name: simulate(name) for name in library.offered(topology, collective) if name != chosen}
    best = min(times, key=times.__getitem__, default=chosen)
    if best == chosen or time_s < _MUCH_SLOWER * times[best]:
        return ()
    found, better = units.format_seconds(time_s), units.format_seconds(times[best])
    return (f"NCCL's tuner chose {chosen}, {found}; {best} is {time_s / times[best]:.2f} times faster, {better}",)
