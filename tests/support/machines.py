"""Small machines for tests."""

from collections.abc import Mapping, Sequence

from msgspec.structs import replace

from sim import units
from sim.specs import GraphSpec, SwitchSpec, TorusSpec
from sim.topology import Topology, build
from sim.topology.mesh import mesh_of_pieces, row_major

CHIP = {"name": "chip", "peak": {"bf16": "1 TFLOP/s"}, "hbm_bandwidth": "1 TB/s", "hbm_capacity": "1 GiB"}


def _link(bandwidth: float, latency_s: float) -> dict[str, str]:
    return {"name": "link", "bandwidth": units.text(bandwidth, "B/s"), "latency": units.text(latency_s, "s")}


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
    axes = {
        name: {"size": size, "wrap": closes, "twist": dict((twist or {}).get(name, {}))}
        for name, size, closes in zip("xyz", sizes, wraps, strict=False)
    }
    spec = {"name": "torus", "kind": "torus", "chip": CHIP, "link": _link(bandwidth, latency_s), "axes": axes}
    return build(TorusSpec.model_validate(spec | {"collectives": dict(collectives or {})}))


def twisted() -> Topology:
    """4x4x8 with the wraps of x and y shifted along z by half its length."""
    return torus(4, 4, 8, twist={"x": {"z": 4}, "y": {"z": 4}})


def switch(
    chips: int, bandwidth: float = 450e9, latency_s: float = 1e-6, collectives: Mapping[str, str] | None = None
) -> Topology:
    """Chips on one switch."""
    spec = {"name": "box", "kind": "switch", "chip": CHIP, "chips": chips, "link": _link(bandwidth, latency_s)}
    return build(SwitchSpec.model_validate(spec | {"collectives": dict(collectives or {})}))


def graph(
    *edges: str,
    chips: int,
    switches: str = "",
    bandwidth: float = 50e9,
    latency_s: float = 1e-6,
    slow: str = "",
    net: bool = False,
) -> Topology:
    """Chips 0, 1, ... and switches a, b, ...; an edge is a pair of names such as `"0a"`, a tenth as fast in `slow`.

    With `net` the slow ones are a network between boxes.
    """
    nodes = {str(chip): "chip" for chip in range(chips)} | dict.fromkeys(switches, "switch")
    links = [{"between": [*edge], "link": "slow" if edge in slow.split() else "fast"} for edge in edges]
    types = {"fast": _link(bandwidth, latency_s), "slow": _link(bandwidth / 10, latency_s)}
    types["slow"] |= {"medium": "net"} if net else {}
    spec = {"name": "graph", "kind": "graph", "chip": CHIP, "nodes": nodes, "link_types": types, "links": links}
    return build(GraphSpec.model_validate(spec))


def full_mesh(chips: int) -> Topology:
    """A link between any two chips."""
    return graph(*(f"{a}{b}" for a in range(chips) for b in range(a)), chips=chips)


def two_sockets() -> Topology:
    """Chips 0 and 1 on switch a, 2 and 3 on switch b, which a slow link joins."""
    return graph("0a", "1a", "2b", "3b", "ab", chips=4, switches="ab", slow="ab")


def two_boxes() -> Topology:
    """Two boxes of four chips on a switch each, which a network joins."""
    edges = (*(f"{chip}{'ab'[chip // 4]}" for chip in range(8)), "ab")
    return graph(*edges, chips=8, switches="ab", slow="ab", net=True)


def meshed(topology: Topology, **sizes: int) -> Topology:
    """The machine with mesh axes of these sizes, over which its chips are numbered row-major."""
    return replace(topology, mesh=mesh_of_pieces(topology.axes, row_major(sizes.items())))
