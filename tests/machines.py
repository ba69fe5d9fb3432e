"""Small machines for tests."""

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter

from sim import topology
from sim.specs import TopologySpec
from sim.topology.graph import Topology

SPEC: TypeAdapter[TopologySpec] = TypeAdapter(TopologySpec)

IDEAL_CHIP = {
    "name": "ideal",
    "peak": {"bf16": "100 TFLOP/s"},
    "hbm_bandwidth": "1000 GB/s",
    "hbm_capacity": "32 GiB",
}
"""No overheads, efficiencies of 1."""


def torus_spec(
    lengths: Sequence[int],
    *,
    wrap: bool | Sequence[bool] = True,
    bandwidth: str = "1 GB/s",
    latency: str = "1 us",
    chip: Mapping[str, object] = IDEAL_CHIP,
    **extra: object,
) -> TopologySpec:
    wraps = [wrap] * len(lengths) if isinstance(wrap, bool) else wrap
    return SPEC.validate_python(
        {
            "kind": "torus",
            "name": "test",
            "chip": dict(chip),
            "link": {"name": "link", "bandwidth": bandwidth, "latency": latency},
            "axes": {
                axis: {"size": size, "wrap": around}
                for axis, size, around in zip("xyzuvw", lengths, wraps, strict=False)
            },
            **extra,
        }
    )


def torus(lengths: Sequence[int], **options: object) -> Topology:
    return topology.build(torus_spec(lengths, **options))  # type: ignore[arg-type]
