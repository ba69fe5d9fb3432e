"""Arrows of messages in whole nanoseconds, which traces for other tools count in."""

from __future__ import annotations

import numpy as np

from sim.program import Ints
from sim.report.flows import Flows


def nanoseconds(time_ps: Ints) -> Ints:
    """Returns the nearest whole nanoseconds."""
    return (time_ps + 500) // 1000


def arrival_ns(flows: Flows) -> Ints:
    """Returns the time at which the arrow of each message ends, inside the receiving collective, [messages].

    An arrow binds to the slice open at its time. At the very end of a collective none is: it ends a nanosecond earlier.
    """
    arrival = np.minimum(nanoseconds(flows.arrival_ps), nanoseconds(flows.end_ps)) - 1
    inside: Ints = np.maximum(arrival, nanoseconds(flows.begin_ps))
    return inside
