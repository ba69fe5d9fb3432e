"""Weights in the memory of a peer GPU or of the host, fetched ahead of use (EnergonAI's PMEP, nemesis_manager.py).

Of each group of I layers the last lives elsewhere. The pre-hook of a layer, as the compute stream comes to it, puts
copies on one stream of the chip's copy engine, in this order:

    layer i, i % I = 0            the layer before it, computed by now, is copied back (also the last one of the pass
                                  before): weights are copied, not dropped
    layer i, i % I = I - 1 - n    layer i + n is fetched, n layers ahead (n = 2; fewer in groups too short for it)

and the compute stream waits for the copy before the fetched layer.
"""

from __future__ import annotations

from msgspec import Struct

from sim import units
from sim.lowering.emitter import Emitter
from sim.lowering.streams import Tasks
from sim.program import Kind, Labels, Occupancy, Waits
from sim.specs import MemoryPoolSpec

NAMES = ("fetch", "evict")
"""Ops of the two copies."""


class PoolLink(Struct, frozen=True):
    """Link to the memory that holds the layers, one direction."""

    bandwidth: float
    """Bytes/s."""
    latency_s: float

    def copy_ps(self, size: float) -> int:
        """Returns the time of a copy on the copy engine, ps."""
        return units.to_ps(size / self.bandwidth)


class MemoryPool:
    """Emits the copies of one stage's layers, numbered from its first."""

    def __init__(self, emitter: Emitter, spec: MemoryPoolSpec, link: PoolLink, layers: int, layer_bytes: float) -> None:
        self._emitter, self._spec, self._link, self._layers = emitter, spec, link, layers
        self.layer_bytes = layer_bytes
        self._last: Tasks = ()
        self._fetched: dict[int, Tasks] = {}
        self._compute_before: Tasks = ()
        """Last tasks of the compute stream before the current layer."""

    def begin_layer(self, layer: int) -> None:
        """Appends the copies that start before a layer, and the wait for the layer's weights."""
        every, streams = self._spec.offload_every, self._emitter.streams
        now = streams.last("compute")
        if layer % every == 0:
            early = self._spec.evict == "at_once" and layer > 0
            self._copy("evict", (layer - 1) % self._layers, self._compute_before if early else now)
        lead = min(self._spec.prefetch_layers, every - 1)
        if layer % every == every - 1 - lead:
            self._fetched[layer + lead] = self._copy("fetch", layer + lead, now)
        if layer in self._fetched:
            streams.hold("compute", self._fetched[layer])
        self._compute_before = now

    def _copy(self, op: str, layer: int, after: Tasks) -> Tasks:
        emitter, builder = self._emitter, self._emitter.builder
        current, builder.layer = builder.layer, layer
        ids = builder.add(
            op,
            Kind.COPY,
            emitter.chips,
            Occupancy(
                emitter.copy_engines,
                busy_ps=self._link.copy_ps(self.layer_bytes),
                flight_ps=units.to_ps(self._link.latency_s),
            ),
            Waits((*after, *self._last)),
            Labels(bytes=self.layer_bytes),
        )
        builder.layer = current
        self._last = (ids,)
        return self._last
