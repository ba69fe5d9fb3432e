"""Small machines, and one collective by itself on the engine."""

from collections.abc import Mapping, Sequence

import numpy as np

from sim import units
from sim.collectives import Schedule
from sim.engine import simulate
from sim.program import Kind, ProgramBuilder
from sim.specs import TorusSpec
from sim.topology import Topology, build
from sim.trace import Trace


def torus(
    *sizes: int,
    wrap: bool | Sequence[bool] = True,
    twist: Mapping[str, Mapping[str, int]] | None = None,
    bandwidth: float = 45e9,
    latency_s: float = 1e-6,
    collectives: Mapping[str, str] | None = None,
) -> Topology:
    """A torus, mesh or twisted torus with axes x, y, z."""
    wraps = [wrap] * len(sizes) if isinstance(wrap, bool) else wrap
    chip = {"name": "chip", "peak": {"bf16": "1 TFLOP/s"}, "hbm_bandwidth": "1 TB/s", "hbm_capacity": "1 GiB"}
    link = {"name": "link", "bandwidth": units.text(bandwidth, "B/s"), "latency": units.text(latency_s, "s")}
    axes = {
        name: {"size": size, "wrap": closes, "twist": dict((twist or {}).get(name, {}))}
        for name, size, closes in zip("xyz", sizes, wraps, strict=False)
    }
    spec = {"name": "torus", "kind": "torus", "chip": chip, "link": link, "axes": axes}
    return build(TorusSpec.model_validate(spec | {"collectives": dict(collectives or {})}))


def twisted() -> Topology:
    """4x4x8 with the wraps of x and y shifted along z by half its length."""
    return torus(4, 4, 8, twist={"x": {"z": 4}, "y": {"z": 4}})


def run(topology: Topology, schedule: Schedule, size: float) -> Trace:
    """Trace of the collective alone: one task per send, on its link."""
    builder = ProgramBuilder([link.name for link in topology.links])
    links = [topology.links[i] for i in schedule.link.tolist()]
    sizes = schedule.share * size
    builder.add(
        schedule.collective,
        Kind.SEND,
        schedule.src,
        peer=schedule.dst,
        busy_ps=[link.busy_ps(share) for link, share in zip(links, sizes.tolist(), strict=True)],
        flight_ps=[link.latency_ps for link in links],
        resource=schedule.link,
        flat_deps=(schedule.dep_counts, schedule.deps),
        bytes=sizes,
    )
    return simulate(builder.build())


def time_s(topology: Topology, schedule: Schedule, size: float) -> float:
    """Time until the last message has arrived, s."""
    return run(topology, schedule, size).makespan_ps / units.PS_PER_S if len(schedule) else 0.0


def rounding_s(topology: Topology, schedule: Schedule) -> float:
    """One ps for every send a critical path can have: all of one link's queue, and one per hop along every axis."""
    queue = np.bincount(schedule.link).max() if len(schedule) else 0
    return float(queue + sum(axis.size for axis in topology.axes)) / units.PS_PER_S
