"""Order of what waits for each other: by priority among what may come next."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from heapq import heapify, heappop, heappush

from sim.errors import InputError

_SHOWN = 5
"""Members of a circle that a message names."""


def order_nodes(
    needs: Mapping[int, Collection[int]], priority: Callable[[int], tuple[int, ...]], name: Callable[[int], str]
) -> Iterator[int]:
    """Yields all keys of `needs`, each after those it needs; of those that may come next the lowest priority first.

    Args:
        name: what a message calls a key.

    Raises:
        InputError: some wait for each other in a circle, which the message names.
    """
    sorter = TopologicalSorter(needs)
    try:
        sorter.prepare()
    except CycleError as error:
        circle = list(reversed(error.args[1]))[:-1]  # each waits for the next
        names = [name(key) for key in circle[:_SHOWN]]
        more = f"{len(circle) - _SHOWN} more, the last" if len(circle) > _SHOWN else ""
        chain = " waits for ".join([*names, *([more] if more else []), names[0]])
        raise InputError(
            f"nodes must not wait for each other in a circle: {chain}",
            hint="check the parents, and that all ranks have messages and collectives in one order",
        ) from None
    ready = [(priority(key), key) for key in sorter.get_ready()]
    heapify(ready)
    while ready:
        _, key = heappop(ready)
        yield key
        sorter.done(key)
        for fresh in sorter.get_ready():
            heappush(ready, (priority(fresh), fresh))
