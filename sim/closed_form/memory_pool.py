"""Stalls of a layer fetched ahead from another memory, and how large a model fits (EnergonAI's PMEP).

I layers in a group, the last of them elsewhere; t, time of a layer; f, e, times of fetching and copying back one; n,
layers ahead (at most I - 1). Both copies take turns on one stream: the copy back from the group's first layer on, the
fetch from n layers before its use on. In the steady state

    stall per group = max(0, f + max(0, e - (I - 1 - n) t) - n t)

so nothing stalls where f <= n t and e + f <= (I - 1) t.
"""

from __future__ import annotations


def stall_per_group(every: int, layer: float, fetch: float, evict: float, ahead: int = 2) -> float:
    """Returns the time that compute waits for a layer, per group of `every`; all times in one unit."""
    lead = min(ahead, every - 1)
    return max(0, fetch + max(0, evict - (every - 1 - lead) * layer) - lead * layer)


def max_layers(capacity: float, rest: float, layer: float, cache: float, every: int | None = None) -> int:
    """Returns the layers of the largest model that fits.

    Args:
        capacity, rest: bytes of the memory, and of what is not in layers.
        layer, cache: bytes of a layer's weights and of its KV cache, which stays.
        every: layers in a group, of which the number of layers is a multiple; None without a pool. Those that stay and
            one that is visiting must fit.
    """
    room = capacity - rest
    if every is None:
        return max(0, int(room // (layer + cache)))
    groups = int((room - layer) // ((every - 1) * layer + every * cache))
    return max(0, groups * every)
