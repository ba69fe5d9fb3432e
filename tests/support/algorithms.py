"""Every algorithm of every collective."""

from sim.collectives import ON_ROUTES, ON_TORUS
from sim.specs import LoopForm

ALGORITHMS = [(collective, name) for collective, algorithms in ON_TORUS.items() for name in algorithms]
ON_ANY_ROUTE = [(collective, name) for collective, algorithms in ON_ROUTES.items() for name in algorithms]
FORMS: tuple[LoopForm, ...] = ("one_way", "bidirectional_throughput", "bidirectional_latency")
"""Forms of loops around a ring of links."""


def fits(algorithm: str, chips: int) -> bool:
    """Whether an algorithm runs with this number of chips."""
    return algorithm != "halving_doubling" or chips & (chips - 1) == 0
