"""Small pipelines for tests, whose sends are free unless a bandwidth is given."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sim.engine import simulate
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.program.trace import Trace
from sim.simulate.forward_pass import lower_pass
from sim.specs import Scenario, load

FREE = "1e12 GB/s"
CHIP = {
    "name": "chip",
    "peak": {"bf16": "1 TFLOP/s"},
    "hbm_bandwidth": "100 GB/s",
    "hbm_capacity": "1 GiB",
}
STACK = {"name": "stack", "op_overhead": "1 us", "elementwise": "kernel", "attention": "fused"}


def scenario(
    *,
    layers: int = 6,
    tensor: int = 1,
    pipeline: int | None = None,
    batch: int = 4,
    prompt: int = 16,
    bandwidth: str = FREE,
    torus: tuple[int, ...] = (),
    graph: dict[str, str] | None = None,
    layout: str = "tensor_parallel",
    ends: bool = True,
    phase: str = "prefill",
    more: dict[str, Any] | None = None,
    **spec: Any,
) -> Scenario:
    """A pipeline; `spec` is its layout.pipeline. Without `ends` the vocabulary is one token.

    A `graph` gives the bandwidth of each edge between chips `"01"`, each of 1 us, in place of a switch.
    """
    stages = pipeline or len(spec.get("stages", [1]))
    link = {"name": "link", "bandwidth": bandwidth, "latency": "0 s"}
    machine_spec: dict[str, Any] = {"name": "machine", "chip": CHIP, "link": link}
    if torus:
        axes = {name: {"size": size, "wrap": True} for name, size in zip("xyz", torus, strict=False)}
        machine_spec |= {"kind": "torus", "axes": axes}
    elif graph:
        types = {f"of{edge}": link | {"bandwidth": rate, "latency": "1 us"} for edge, rate in graph.items()}
        edges = [{"between": [*edge], "link": f"of{edge}"} for edge in graph]
        nodes = {str(chip): "chip" for chip in range(tensor * stages)}
        machine_spec = {"name": "machine", "kind": "graph", "chip": CHIP, "nodes": nodes}
        machine_spec |= {"link_types": types, "links": edges}
    else:
        machine_spec |= {"kind": "switch", "chips": tensor * stages}
    tokens = {"prompt": prompt} if phase == "prefill" else {"context": prompt, "generate": 1}
    given: dict[str, Any] = {
        "name": "small",
        "topology": machine_spec,
        "stack": STACK,
        "model": {
            "name": "small",
            "layers": layers,
            "d_model": 64,
            "d_ff": 256,
            "heads": 4,
            "kv_heads": 4,
            "d_head": 16,
            "vocabulary": 64 if ends else 1,
            "ffn": "mlp",
            "block": "serial",
        },
        "workload": {"phase": phase, "batch": batch, **tokens, "weights": "bf16"},
        "layout": {
            "ffn": layout,
            "attention": "heads",
            "mesh": {"pipeline": stages} | ({} if torus else {"tensor": tensor}),
            "pipeline": spec,
        },
    }
    for name, value in (more or {}).items():
        given[name] = given.get(name, {}) | value if isinstance(value, dict) else value
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scenario.yaml"
        path.write_text(yaml.safe_dump(given))
        return load.scenario(str(path))


@dataclass(frozen=True)
class Times:
    """When things happened, ps."""

    trace: Trace
    passes: dict[tuple[int, int, int], tuple[int, int]]
    """(request, micro-batch, stage) -> (begin, end)."""
    arrived: list[int]
    answered: list[int]
    rank_begins: dict[tuple[int, int], list[int]]

    def sent(self, op: str) -> list[float]:
        program = self.trace.program
        names = [program.op_names[i] for i in program.op.tolist()]
        return [
            float(program.bytes[i])
            for i, name in enumerate(names)
            if name.startswith(op) and program.kind[i] == Kind.SEND and program.follows[i] < 0
        ]

    def count(self, op: str) -> int:
        """Chips and collectives of that name."""
        program = self.trace.program
        if op not in program.op_names:
            return 0
        return int(((program.op == program.op_names.index(op)) & (program.kind == Kind.BEGIN)).sum())

    def begins(self, request: int, stage: int) -> list[int]:
        return self.rank_begins[request, stage]


def times(given: Scenario) -> Times:
    """Simulate a pipeline."""
    lowered = lower_pass(given)[1] if given.perturb else lower(given, mesh_of(given))
    trace = simulate(lowered.program)
    ends = trace.times["end"]
    assert lowered.batches is not None
    return Times(
        trace,
        {
            (p.request, p.part, p.stage): (int(ends[p.begin].min()), int(ends[p.end].max()))
            for p in lowered.batches.passes
        },
        ends[list(lowered.batches.arrived)].tolist(),
        ends[list(lowered.batches.answered)].tolist(),
        {(p.request, p.stage): ends[p.begin].tolist() for p in lowered.batches.passes},
    )
