"""Working links of a machine as arrays, with cuts through them and distances over them."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.specs import MEDIA
from sim.topology.graph import Int32s, Topology

Floats = npt.NDArray[np.float64]


class WorkingLinks(Struct, frozen=True, eq=False):
    """Links that have not failed, in the order of their numbers."""

    nodes: int
    src: Int32s
    dst: Int32s
    bandwidth: Floats
    latency_ps: npt.NDArray[np.int64]
    medium: Int32s

    @classmethod
    @functools.lru_cache(maxsize=16)
    def of(cls, topology: Topology) -> WorkingLinks:
        links = topology.working_links
        return cls(
            len(topology.nodes),
            np.array([link.src for link in links], dtype=np.int32),
            np.array([link.dst for link in links], dtype=np.int32),
            np.array([link.bandwidth for link in links]),
            np.array([link.latency_ps for link in links], dtype=np.int64),
            np.array([MEDIA.index(link.medium) for link in links], dtype=np.int32),
        )

    def capacity(self, labels: Int32s) -> tuple[Floats, Floats]:
        """Returns the bandwidth of the links into and out of each set of nodes of one label, bytes/s."""
        src, dst, sets = labels[self.src], labels[self.dst], int(labels.max()) + 1
        into, out = ((src != dst) & (end >= 0) for end in (dst, src))
        ends = ((dst[into], self.bandwidth[into]), (src[out], self.bandwidth[out]))
        entering, leaving = (np.bincount(*each, sets).astype(np.float64) for each in ends)
        return entering, leaving

    def components(self, kept: npt.NDArray[np.bool_]) -> Int32s:
        """Returns [nodes] the connected component of each node if only some links are kept."""
        labels = np.arange(self.nodes, dtype=np.int32)
        src, dst = self.src[kept], self.dst[kept]
        while True:
            before = labels.copy()
            np.minimum.at(labels, dst, labels[src])
            np.minimum.at(labels, src, labels[dst])
            if (labels == before).all():
                return np.unique(labels, return_inverse=True)[1].ravel().astype(np.int32)

    def distances(self, sources: Int32s, length: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Returns [sources, nodes] the length of the shortest path to every node; 0 if there is none."""
        return _distances(self, sources.tobytes(), length.tobytes())


@functools.lru_cache(maxsize=2)  # collectives over other axes ask for the same; an array of all pairs is large
def _distances(links: WorkingLinks, source_bytes: bytes, length_bytes: bytes) -> npt.NDArray[np.int64]:
    sources, length = np.frombuffer(source_bytes, dtype=np.int32), np.frombuffer(length_bytes, dtype=np.int64)
    if not len(links.dst):
        return np.zeros((len(sources), links.nodes), dtype=np.int64)
    order = np.argsort(links.dst, kind="stable")
    ends, first = np.unique(links.dst[order], return_index=True)
    far = np.iinfo(np.int64).max // 4
    apart = np.full((len(sources), links.nodes), far, dtype=np.int64)
    apart[np.arange(len(sources)), sources] = 0
    for block in np.array_split(np.arange(len(sources)), -(-len(sources) * len(order) // 2**22)):
        while True:
            shorter = np.minimum.reduceat(apart[block][:, links.src[order]] + length[order], first, axis=1)
            shorter = np.minimum(apart[block][:, ends], shorter)
            if (shorter == apart[block][:, ends]).all():
                break
            apart[np.ix_(block, ends)] = shorter
    apart[apart >= far] = 0
    return apart
