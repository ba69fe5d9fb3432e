"""Collectives as NCCL runs them: algorithm x protocol, the choice between them, and what each takes.

The choice is NCCL's own: the kernel with the smallest time that its tuner predicts (`sim.collectives.nccl.tuner`,
constants `counted`). The duration follows from the schedule and from what the kernels were measured to take (constants
`measured`): a launch, the latencies of the links and what the protocol adds to them at every step, and a share of the
links' bandwidth. So a machine with longer wires has longer steps, and no time is below what the links allow.

All channels between the same two ports are one send: they share the port and run in step.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from sim.collectives import rooted
from sim.collectives.fold import folding
from sim.collectives.graph import point_to_point, rings, trees
from sim.collectives.graph.renumbering import numbered
from sim.collectives.nccl import nvls as in_switch
from sim.collectives.nccl import tuner
from sim.collectives.pieces import cut, in_pieces
from sim.collectives.schedule import Algorithm, Schedule, Timing
from sim.errors import InputError
from sim.specs import PROTOCOLS, NcclSpec, NetworkSpec, Protocol
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.paths import cut_off
from sim.topology.rings import Rings, find, own_chains

Looped = Callable[[Topology, tuple[str, ...], int], Schedule]
"""(topology, axes, loops) -> Schedule."""

_MOST_TREE_LOOPS = 16
"""Longer runs of equal chunks on a tree are simulated as so many."""
_MOST_PIPELINE_LOOPS = 64
"""Same limit for broadcasts and reduces."""
_TIMES_RUN = 2
"""Every channel of the search is run so many times. Source: NCCL 2.30, src/graph/connect.cc."""
_NEEDED = {
    "nvls": "all chips on one switch that reduces",
    "nvls_tree": "several boxes of equally many chips, each on a switch that reduces",
}
"""Requirements of algorithms on the machine."""
_LINE_BYTES = 8
"""A line of LL. Source: NCCL 2.30, src/include/device.h."""


class Kernel(Struct, frozen=True):
    """One of NCCL's ways to run a collective."""

    algorithm: str
    protocol: Protocol
    run: Looped

    @property
    def latencies(self) -> Literal["ring", "tree"]:
        """Whose latencies it has."""
        return "tree" if self.algorithm == "tree" else "ring"


def _unlooped(run: Callable[[Topology, tuple[str, ...]], Schedule]) -> Looped:
    return lambda topology, axes, loops: run(topology, axes)


def _looped_tree(topology: Topology, axes: tuple[str, ...], loops: int) -> Schedule:
    """Loops of chunks are pieces already."""
    return cut(trees.looped(topology, axes, loops), before=loops)


def _pipeline(collective: str) -> Looped:
    return lambda topology, axes, loops: rings.along(topology, collective, axes, loops)


_scatter = numbered(point_to_point.one_shot_scatter, root=0)
_OF_PEERS: dict[str, Algorithm] = {
    "all_to_all": numbered(point_to_point.one_shot_exchange),
    "gather": rooted.reverse_scatter(_scatter),
    "scatter": _scatter,
    "sendrecv": point_to_point.ring_sendrecv,
}
"""Collectives that NCCL runs as sends and receives of one group."""


def _kernels() -> dict[str, dict[str, Kernel]]:
    found: dict[str, dict[str, Kernel]] = {}
    for collective in ("all_gather", "reduce_scatter", "all_reduce"):
        run = _unlooped(rings.once(collective))
        found[collective] = {f"ring_{protocol}": Kernel("ring", protocol, run) for protocol in PROTOCOLS}
    found["all_reduce"] |= {f"tree_{protocol}": Kernel("tree", protocol, _looped_tree) for protocol in PROTOCOLS}
    found["all_reduce"]["nvls"] = Kernel("nvls", "simple", in_switch.all_reduce)
    found["all_reduce"]["nvls_tree"] = Kernel("nvls_tree", "simple", in_switch.tree_all_reduce)
    for collective in ("broadcast", "reduce"):
        found[collective] = {
            f"ring_{protocol}": Kernel("ring", protocol, _pipeline(collective)) for protocol in PROTOCOLS
        }
    for collective, messages in _OF_PEERS.items():
        found[collective] = {"send_recv": Kernel("send_recv", "simple", _unlooped(in_pieces(messages)))}
    return found


ON_NCCL: dict[str, dict[str, Kernel]] = _kernels()
"""Kernels by collective and name. A name without protocol means the best of its protocols, `auto` the best kernel."""


def names(collective: str) -> tuple[str, ...]:
    """Returns the names that a user may give: kernels, `auto`, and algorithms without a protocol."""
    kernels = ON_NCCL.get(collective, {})
    return tuple(dict.fromkeys([*(["auto"] if kernels else []), *kernels, *(k.algorithm for k in kernels.values())]))


@functools.lru_cache(maxsize=64)
def fabric(topology: Topology) -> tuner.Fabric:
    """Returns what NCCL's search finds on the machine."""
    spec, found, count = _spec(topology), find(topology), len(boxes(topology))
    ring, nvls = _channels(spec, found, count), None
    if in_switch.reducers(topology) and topology.chips > 1:
        box = min(len(each) for each in boxes(topology))
        budget = min(topology.links[link].bandwidth for port in in_switch.ports(topology) for link in port)
        nvls = tuner.nvls_channels(spec, box, budget)
    return tuner.Fabric(topology.chips, count, found.medium, ring, _tree(topology, ring), nvls)


def _channels(spec: NcclSpec, rings: Rings, boxes: int) -> tuner.Channels:
    """A ring is divided into channels of speeds that NCCL tries; of several rings each is one, in a box two if fast."""
    if rings.count == 1:
        return tuner.search(spec, rings.bandwidth, between_boxes=boxes > 1)
    if boxes == 1:
        return tuner.split(spec, tuner.Channels(rings.count, rings.bandwidth))
    fitting = (speed for speed in spec.counted.inter_speeds if speed <= rings.bandwidth * (1 + 1e-9))
    return tuner.Channels(rings.count, next(fitting, rings.bandwidth))


def _tree(topology: Topology, ring: tuner.Channels) -> tuner.Tree:
    """Returns the channels of trees: in one box chains over faster links than the rings' if there are any; else as
    rings, which as chains carry as much.
    """
    along = own_chains(topology) if len(boxes(topology)) == 1 else None
    if along is None:
        return tuner.Tree(find(topology).medium, ring)
    there_and_back = 2 * (topology.chips - 1) / topology.chips
    return tuner.Tree(along.medium, tuner.search(_spec(topology), there_and_back * along.count * along.bandwidth))


def _spec(topology: Topology) -> NcclSpec:
    if topology.software.nccl is None:
        rule = "this algorithm is NCCL's, and the machine has no 'nccl'"
        raise InputError(rule, where=f"topology {topology.name}", hint="such as nccl: hopper")
    return topology.software.nccl


def predictions(topology: Topology, collective: str, size: float) -> Mapping[str, float]:
    """Time that NCCL's tuner predicts for each kernel it offers here, s."""
    spec, box = _spec(topology), fabric(topology)
    times = {
        name: tuner.predict(spec, box, collective, kernel.algorithm, kernel.protocol, size)
        for name, kernel in ON_NCCL[collective].items()
    }
    return {name: time for name, time in times.items() if time is not None}


def choose(topology: Topology, collective: str, wanted: str, size: float | None) -> str:
    """The kernel of that name, else the one with the smallest predicted time of those that `wanted` leaves.

    Raises:
        InputError: the machine offers none of them.
        ValueError: the choice depends on the size, and none is given.
    """
    kernels = ON_NCCL[collective]
    left = [name for name in offered(topology, collective) if wanted in ("auto", kernels[name].algorithm, name)]
    if not left and in_switch.reducers(topology.intact) and not in_switch.reducers(topology):
        raise cut_off(topology, "not all chips reach the switch that reduces")
    if not left:
        needed = next(
            _NEEDED[kernel.algorithm] for name, kernel in kernels.items() if wanted in (kernel.algorithm, name)
        )
        rule = f"the algorithm '{wanted}' of {collective} needs {needed}"
        others = ", ".join(name for name in names(collective) if name != wanted)
        raise InputError(rule, where=f"topology {topology.name}", hint=f"choose from {others}")
    if len(left) == 1 or topology.chips == 1:
        return left[0]
    if size is None:
        raise ValueError(f"{collective} by '{wanted}' on {topology.name}: NCCL chooses by the size")
    times = predictions(topology, collective, size)
    return min((name for name in left if name in times), key=times.__getitem__)


def offered(topology: Topology, collective: str) -> tuple[str, ...]:
    """Returns the kernels that the machine can run."""
    return tuple(name for name, kernel in ON_NCCL[collective].items() if _is_offered(topology, kernel.algorithm))


def _is_offered(topology: Topology, algorithm: str) -> bool:
    """Returns True if the switches and boxes of the machine are as the algorithm requires."""
    if algorithm not in _NEEDED:
        return True
    found, spec = boxes(topology), _spec(topology).nvls
    equal = len({len(box) for box in found}) == 1
    if not in_switch.reducers(topology) or spec is None or topology.chips < spec.least_chips:
        return False
    return len(found) == 1 if algorithm == "nvls" else equal and len(found) > 1 and len(found[0]) > 1


def timed(topology: Topology, collective: str, axes: tuple[str, ...], name: str, size: float) -> Schedule:
    """The schedule of a kernel for `size` bytes."""
    whole = topology.unfold()
    kernel = ON_NCCL[collective][name]
    if whole.chips == 1:
        return _run(topology, collective, axes, name, 1)
    match kernel.algorithm:
        case "nvls" | "nvls_tree":
            loops, timing = _in_switch(whole, kernel, size)
        case "send_recv":
            loops, timing = 1, _between_peers(whole, collective, size)
        case _:
            loops = _loops(whole, collective, kernel, size)
            timing = _step_by_step(whole, kernel, size, loops)
    return _timed(topology, collective, axes, name, loops, timing)


def _loops(topology: Topology, collective: str, kernel: Kernel, size: float) -> int:
    """Chunks one behind the other: on trees of a chunk each; of a broadcast or reduce a chunk on every channel, or,
    as LL and LL128 pass every line on when it comes, what the threads of every channel hold at once.
    """
    spec, protocol = _spec(topology), kernel.protocol
    chunk, most = spec.measured.of(protocol).chunk, _MOST_TREE_LOOPS
    if kernel.algorithm == "tree":
        at_once = trees.parts(topology)
    elif collective in ("broadcast", "reduce"):
        at_once, most = _TIMES_RUN * fabric(topology).ring.count, _MOST_PIPELINE_LOOPS
        chunk = chunk if protocol == "simple" else spec.channel_bytes[protocol]
    else:
        return 1
    return min(most, max(1, math.ceil(size / (at_once * chunk))))


def _step_by_step(topology: Topology, kernel: Kernel, size: float, loops: int) -> Timing:
    """Rings and trees: steps inside boxes are measured on rings, hops between them on trees, and steps of the others
    are to them as the tuner counts them.

    So are rates of trees inside boxes to those of rings. On a ring all channels pass on at once. On a tree a chip's
    port has a chunk of each loop and channel at a time, and each waits for its channel.
    """
    spec, protocol, n = _spec(topology), kernel.protocol, topology.chips
    measured, counted, several = spec.measured, spec.counted.step, len(boxes(topology)) > 1
    times, network = measured.of(protocol), _network(topology)
    hop, steps = network.hop[protocol] if network else counted["net"]["tree"][protocol], dict(times.step)
    if kernel.latencies == "tree":
        steps = {m: step * _ratio(counted[m]["tree"], counted[m]["ring"], protocol) for m, step in steps.items()}
    else:
        hop *= _ratio(counted["net"]["ring"], counted["net"]["tree"], protocol)
        least = spec.counted.net_overhead * (3 if protocol == "simple" else 1) if several else 0.0
        steps = {medium: max(least, step) for medium, step in steps.items()}
    if size < _LINE_BYTES * n and not several:
        steps = {medium: step * times.empty_step for medium, step in steps.items()}
    added = (measured.added("nvlink", steps["nvlink"]), measured.added("pci", steps["pci"]), measured.added("net", hop))
    between = times.share["pci"]  # a network carries what PCI Express does
    found = fabric(topology)
    channels = (found.tree.channels if kernel.algorithm == "tree" else found.ring).count
    if protocol == "ll" and network:
        adapter = min(link.bandwidth for link in topology.links if link.medium == "net")
        parts = trees.parts(topology) if kernel.algorithm == "tree" else find(topology).count
        between = min(between, max(1.0, _TIMES_RUN * channels / parts) * network.ll_rate / adapter)
    per_line = n if kernel.algorithm == "ring" and protocol == "ll" else 1
    used = _used(size, channels, spec.channel_bytes[protocol] * per_line)
    inside = times.share
    if kernel.algorithm == "tree":
        ratio = tuner.tree_share(spec, found, protocol) / tuner.ring_share(spec, found, protocol)
        at_once = loops * max(trees.parts(topology), _TIMES_RUN * channels) / max(len(box) for box in boxes(topology))
        most = at_once * times.channel_rate / max(link.bandwidth for link in topology.links)
        inside = {"nvlink": min(inside["nvlink"] * ratio, most), "pci": inside["pci"] * ratio}
    share = (inside["nvlink"], inside["pci"], between)
    return Timing(times.base + measured.startup.value, added, share, used)


def _ratio(one: Mapping[Protocol, float], other: Mapping[Protocol, float], protocol: Protocol) -> float:
    """One step to the other as the tuner counts them; 1 where the other takes no time."""
    return one[protocol] / other[protocol] if other[protocol] else 1.0


def _between_peers(topology: Topology, collective: str, size: float) -> Timing:
    """Messages to all peers at once: a shared server of few channels, or of many with large messages.

    It is measured on all-to-alls. A sendrecv has one peer, and is assumed to reach the same rates.
    """
    spec, n = _spec(topology), 1 if collective == "sendrecv" else topology.chips
    times = spec.measured.point_to_point
    peers = times.many if size / n > times.many_from else times.few
    overhead_s = max(peers.floor, peers.base + peers.per_peer * n) + spec.measured.startup.value
    adapters = 1.0
    if network := _network(topology):
        overhead_s += network.peers_start
        adapters = network.peers_share ** max(0.0, math.log2(len(boxes(topology)) / 2))
    return Timing(overhead_s, (0.0, 0.0, 0.0), (peers.share, 1.0, adapters), fabric(topology).ring.count)


def _in_switch(topology: Topology, kernel: Kernel, size: float) -> tuple[int, Timing]:
    """Rounds, and their timing."""
    spec, network = _spec(topology), _network(topology)
    cutting, times, counted = spec.nvls, spec.measured.nvls, spec.counted.nvls
    if cutting is None or times is None or counted is None:
        raise InputError("this generation of GPUs has no NVLS", where=f"topology {topology.name}", got=spec.generation)
    count = len(boxes(topology))
    chips = min(len(box) for box in boxes(topology))
    cut = in_switch.cut(cutting, chips, size, boxes_count=count)
    port = min(topology.links[link].bandwidth for link in in_switch.ports(topology)[0])
    share = in_switch.rate_share(cutting, times, chips, cut.chunk, port)
    hop = spec.measured.added("net", network.nvls_hop if network else counted.hop)
    overhead_s = times.base + times.per_chip * chips + spec.measured.startup.value
    return cut.rounds, Timing(overhead_s, (0.0, 0.0, hop), (share, 1.0, 1.0), cutting.channels)


@functools.lru_cache(maxsize=64)
def _network(topology: Topology) -> NetworkSpec | None:
    """The network between the boxes; of several the one with the longest hop."""
    networks = [link.network for link in topology.links if link.network is not None and link.medium == "net"]
    return max(networks, key=lambda network: network.hop["simple"], default=None)


def _used(size: float, channels: int, least: float) -> int:
    """Channels that get at least `least` bytes each, one at least. Source: NCCL 2.30, src/enqueue.cc."""
    return max(1, min(channels, int(size / least)))


@folding()
def _run(topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int) -> Schedule:
    return ON_NCCL[collective][name].run(topology, axes, loops)


@functools.lru_cache(maxsize=256)
def _timed(
    topology: Topology, collective: str, axes: tuple[str, ...], name: str, loops: int, timing: Timing
) -> Schedule:
    return replace(_run(topology, collective, axes, name, loops), timing=timing)
