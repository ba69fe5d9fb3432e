"""A program made by hand, two chips on a ring, whose timeline can be drawn on paper."""

import numpy as np

from sim import topology as machine
from sim.engine import simulate
from sim.program import Ids, Kind, Labels, Occupancy, ProgramBuilder, Waits
from sim.program.trace import Trace
from sim.specs import TorusSpec
from sim.topology.graph import Topology

US = 1_000_000
"""Picoseconds."""


def ring(chips: int) -> Topology:
    """Chips of 100 TFLOP/s on one wrapped axis, x."""
    spec = {
        "kind": "torus",
        "name": "ring",
        "chip": {
            "name": "chip",
            "peak": {"bf16": "100 TFLOP/s"},
            "hbm_bandwidth": "1 TB/s",
            "hbm_capacity": "32 GiB",
        },
        "link": {"name": "link", "bandwidth": "1 GB/s", "latency": "1 us"},
        "axes": {"x": {"size": chips, "wrap": True}},
    }
    return machine.build(TorusSpec.model_validate(spec))


def two_chips(layers: int = 1, slower_us: int = 2) -> tuple[Trace, Topology]:
    """Layers of the following, times in us. Chip 1 takes `slower_us` longer for its last matmul of each layer.

        compute        q_wi 0-10            | attention 16-20    | wo 26-30 (chip 1: 26-32)
        collectives    all_gather 0-6       | reduce_scatter 10-16 | all_reduce 16-26
        link x+        1-5                  | 11-15              | 17-25

    Every collective: 1 us of launch, one send over x+, 1 us of flight. A layer begins as the one before ends.
    """
    topology = ring(2)
    chips = np.arange(2)
    builder = ProgramBuilder(["0:compute", "1:compute", *(link.name for link in topology.links)])
    hops = [topology.neighbour(chip, "x", 1) for chip in range(2)]
    peer, link = np.array(hops).T

    def compute(op: str, us: list[int], after: list[Ids], flops: float = 1e6) -> Ids:
        busy_ps = np.array(us) * US
        return builder.add(
            op, Kind.COMPUTE, chips, Occupancy(chips, busy_ps=busy_ps), Waits(after), Labels(bytes=100.0, flops=flops)
        )

    def collective(op: str, us: int, after: list[Ids]) -> Ids:
        number = builder.new_collective()
        begin = builder.add(
            op, Kind.BEGIN, chips, Occupancy(flight_ps=US), Waits(after), Labels(bytes=2e6, collective=number)
        )
        builder.dtypes[op] = "bf16"
        sends = builder.add(
            op,
            Kind.SEND,
            chips,
            Occupancy(2 + link, busy_ps=us * US, flight_ps=US),
            Waits([begin]),
            Labels(peer=peer, bytes=us * 1000.0, collective=number),
        )
        return builder.add(op, Kind.END, chips, waits=Waits([begin, sends[peer]]), labels=Labels(collective=number))

    previous: list[Ids] = []
    for layer in range(layers):
        builder.layer = layer
        q = compute("q_wi", [10, 10], previous)
        collective("all_gather(x) residual", 4, previous)
        scattered = collective("reduce_scatter(x) q_wi", 4, [q])
        attention = compute("attention", [4, 4], [scattered])
        reduced = collective("all_reduce(x) out", 8, [scattered])
        previous = [compute("wo", [4, 4 + slower_us], [attention, reduced])]
    return simulate(builder.build()), topology
