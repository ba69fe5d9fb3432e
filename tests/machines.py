"""Small machines for tests."""

from collections.abc import Mapping, Sequence

from sim import units
from sim.specs import TorusSpec
from sim.topology import Topology, build


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
