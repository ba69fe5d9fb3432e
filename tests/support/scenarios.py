"""Random scenarios of small models, from every shipped chip and choice of a layout, most of them valid."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from random import Random
from typing import Any, TypeVar

import yaml

from sim.specs import load
from sim.specs.load.stacks import on_chip
from sim.specs.uses import PRESETS
from support.algorithms import FORMS

T = TypeVar("T")

LINK = {"name": "link", "bandwidth": "5 GB/s", "latency": "1 us", "efficiency": 0.9}
_PLAIN = 0.85
"""Share of scenarios that leave a choice at its default, so that many leave most choices there."""


def chip(name: str) -> dict[str, Any]:
    """A shipped chip as its file has it."""
    found: dict[str, Any] = yaml.safe_load(load.path("chip", name).read_text(encoding="utf-8"))
    return found


def stack_of(kind: str) -> str:
    """A shipped stack that knows a chip."""
    return "jax_tpu" if kind.startswith("tpu") else "best_kernels"


def software(kind: str, **own: Any) -> dict[str, Any]:
    """What that stack reaches on a chip, with some values replaced."""
    entry = {"same_as": f"{stack_of(kind)}/{kind}"}
    return {**on_chip({"name": "own", "chips": {kind: entry}}, kind, {}, ("stack",)), **own}


def _seldom(draw: Random, values: Sequence[T], default: T) -> T:
    return default if draw.random() < _PLAIN else draw.choice(values)


def model(draw: Random, chips: int) -> dict[str, Any]:
    """A model whose dimensions these chips divide."""
    heads = chips * draw.choice((1, 2, 3))
    kv_heads = draw.choice([count for count in range(1, heads + 1) if heads % count == 0])
    return {
        "name": "small",
        "layers": draw.randint(1, 9),
        "d_model": chips * draw.choice((1, 4, 33)) * 8,
        "d_ff": chips * draw.choice((1, 4, 33)) * 8,
        "heads": heads,
        "kv_heads": kv_heads,
        "d_head": draw.choice((8, 64, 128)),
        "vocabulary": draw.choice((37, 1000, 32000)),
        "ffn": draw.choice(("swiglu", "mlp")),
        "block": draw.choice(("parallel", "serial")),
        "tied": draw.random() < 0.5,
    }


def workload(draw: Random, chips: int, peak: Sequence[str]) -> dict[str, Any]:
    """A phase of any kind."""
    phase = draw.choice(("prefill", "decode", "generate"))
    tokens = {"prompt": draw.choice((1, 8, 100)), "context": draw.choice((1, 100)), "generate": draw.choice((1, 3))}
    used = {"prefill": ("prompt",), "decode": ("context", "generate"), "generate": ("prompt", "generate")}[phase]
    return {
        "phase": phase,
        "batch": draw.choice((1, chips, 3 * chips)),
        **{name: tokens[name] for name in used},
        "weights": draw.choice(("bf16", "int8")),
        "activations": draw.choice([name for name in ("bf16", "fp16") if name in peak]),
        "kv_cache": draw.choice(("bf16", "int8")),
        "sampling": _seldom(draw, ("greedy", "top_k"), "greedy"),
        "static_cache": _seldom(draw, (250, None), None),
    }


FORMATS = ("bf16", "int8", "fp8", "mxfp8", "int4", "nvfp4", "mxfp4")


def of_recent_models(draw: Random, fields: dict[str, Any]) -> dict[str, Any]:
    """The scenario with a model of experts, latent attention or windows, and with formats of any width.

    Most of the choices are gone that no closed form knows, so that many scenarios have an exact one.
    """
    machine, layout, stack, work = (fields[name] for name in ("topology", "layout", "stack", "workload"))
    lines, model = list(machine.get("axes", {})), fields["model"]
    chips = machine.get("chips") or prod(int(axis["size"]) for axis in machine["axes"].values())
    layout |= {"ffn": draw.choice(_OF_EXPERTS), "residual": _seldom(draw, ("ladder",), "standard"), "block": "serial"}
    layout |= {"overlap": None, "graph_capture": True, "communication": draw.choice((None, "compute_stream"))}
    layout.pop("hybrid", None)
    fields["collectives"] = {} if lines else {"all_reduce": "one_shot"}
    stack |= {"matmul_balance": None}
    if draw.random() < 0.5:
        stack |= {"attention_efficiency": 0.5, "attention_overhead": "7 us", "attention_overlap": 0.8}
        stack |= {"grouped_efficiency": 0.6, "grouped_overhead": "9 us"}
    if len(lines) > 1 and draw.random() < 0.3:
        layout.pop("ffn")
        layout["uses"] = draw.choice(_mixed_uses(lines))
    if draw.random() < 0.8:
        model["experts"], layout["experts"] = _experts(draw, chips)
    if draw.random() < 0.5:
        model["latent"] = {"kv_rank": draw.choice((16, 512)), "rope": 4, "d_value": draw.choice((8, 128))}
        model["latent"] |= draw.choice(({}, {"q_rank": 32}, {"q_rank": 100}))
        model["kv_heads"] = model["heads"]
        layout |= {"attention": "heads", "kv_heads": "shared", "latent": draw.choice((None, "plain", "absorbed"))}
    elif draw.random() < 0.5:
        model["window"] = {"size": draw.choice((3, 64, 128)), "full_every": draw.choice((2, 3))}
    work |= {"batch": chips * draw.choice((1, 3))}
    for name in ("weights", "kv_cache", "operands", "expert_weights", "dispatch", "combine"):
        if draw.random() < 0.5:
            work[name] = draw.choice(FORMATS)
    if work["phase"] == "prefill" and draw.random() < 0.3:
        work["context"] = 100
    if work["phase"] == "decode" and work["static_cache"] is None and draw.random() < 0.3:
        work["speculation"] = {"draft": draw.choice((1, 3)), "acceptance": 0.7}
    return fields


_OF_EXPERTS = (
    *("expert_parallel", "tensor_expert_parallel", "tensor_parallel"),
    *("megatron_sequence_parallel", "attention_data_parallel", "weight_stationary_1d"),
)


def _mixed_uses(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Uses of several axes, of which some or all split experts, and some or all tokens."""
    first, others, every = list(lines[:1]), list(lines[1:]), list(lines)
    return [
        {"batch": first, "experts": first, "heads": others, "d_ff": others},
        {"batch": first, "experts": every, "heads": others, "d_ff": others},
        {"heads": every, "d_ff": every, "experts": first, "residual": dict.fromkeys(every, "tokens")},
        {"d_ff": every, "experts": first, "residual": dict.fromkeys(every, "tokens")},
        {"heads": every, "d_ff": every, "experts": others, "residual": {first[0]: "d_model"}},
    ]


def _experts(draw: Random, chips: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Experts of a model, and their layout."""
    groups = draw.choice((1, 1, 2))
    each, taken = chips * draw.choice((1, 2, 4)), draw.choice((1, groups))
    model = {
        "count": each * groups,
        "top_k": min(draw.choice((1, 2, 4)), each * taken),
        "d_ff": chips * draw.choice((8, 40)),
        "shared": draw.choice((0, 1, 2)),
        "groups": groups,
        "top_groups": taken,
        "dense_first": draw.choice((0, 1, 2)),
        "every": draw.choice((1, 2)),
    }
    layout = {
        "dispatch": draw.choice((None, "per_expert", "per_rank", "per_box", "all_gather")),
        "shared": draw.choice(("under_dispatch", "under_combine", "apart")),
        "capacity": _seldom(draw, (0.5, 1.5), None),
        "replicas": _seldom(draw, (chips,), 0),
    }
    return model, layout


def on_a_torus(draw: Random, kind: str) -> dict[str, Any]:
    """A scenario of any preset on a torus."""
    names, alike = "xyz"[: draw.randint(1, 3)], {"size": draw.choice((2, 3, 4)), "wrap": True}
    axes: dict[str, dict[str, Any]] = dict.fromkeys(names, alike)
    if draw.random() < 0.5:
        axes = {name: {"size": draw.choice((1, 2, 2, 3, 4, 4)), "wrap": draw.random() < 0.8} for name in names}
    first, last = axes[names[0]], axes[names[-1]]
    if first["wrap"] and first is not last and last["size"] > 2 and draw.random() < 0.1:
        axes[names[0]] = first | {"twist": {names[-1]: last["size"] // 2}}
    chips = prod(int(axis["size"]) for axis in axes.values())
    choices: dict[str, Any] = {
        **_residual(draw),
        "ffn": draw.choice(list(PRESETS)),
        "attention": draw.choice(("heads", "batch")),
        "overlap": draw.choice((None, "none", "collective_matmul")),
        "communication": _seldom(draw, ("own_stream",), None),
        "logits": _seldom(draw, ("none",), "last"),
        "kv_heads": _seldom(draw, ("expanded",), "shared"),
        "graph_capture": _seldom(draw, (False,), True),
    }
    algorithms = {
        "all_gather": ("multi_axis", "bidirectional_ring", "ring", "line"),
        "reduce_scatter": ("multi_axis", "bidirectional_ring", "ring", "line"),
        "all_reduce": ("multi_axis", "bidirectional_ring", "ring", "line"),
        "all_to_all": ("multi_axis", "dimension_ordered"),
        "collective_matmul": FORMS,
    }
    machine = {
        "name": "torus",
        "kind": "torus",
        "chip": chip(kind),
        "link": LINK,
        "axes": axes,
    }
    collectives = {name: draw.choice(known) for name, known in algorithms.items() if draw.random() < 0.2}
    return _scenario(draw, machine, choices, chips, collectives)


def _residual(draw: Random) -> dict[str, Any]:
    """A residual scheme, and the block that it is of."""
    schemes = ("standard", "parallel", "ladder", "hybrid", "desync2", "desync4", "no_communication")
    scheme = draw.choice((None, *schemes))
    block = draw.choice((None, "parallel", "serial")) if scheme in (None, "parallel") else "serial"
    hybrid = {"hybrid": {"ladder_layers": 1}} if scheme == "hybrid" else {}
    return {"residual": scheme, "block": block, **hybrid}


def on_a_switch(draw: Random, kind: str) -> dict[str, Any]:
    """A scenario of any preset on one switch, most of them of tensor parallelism."""
    chips = draw.choice((1, 2, 3, 4, 6, 8))
    algorithms = {
        "all_gather": ("ring", "one_shot", "halving_doubling"),
        "reduce_scatter": ("ring", "one_shot", "halving_doubling"),
        "all_reduce": ("ring", "one_shot", "two_shot", "tree", "halving_doubling", "hierarchical", "cube_mesh"),
        "all_to_all": ("one_shot",),
    }
    choices: dict[str, Any] = {
        **_residual(draw),
        "ffn": draw.choice(list(PRESETS)) if draw.random() < 0.6 else "tensor_parallel",
        "attention": _seldom(draw, ("batch",), "heads"),
        "overlap": _seldom(draw, ("micro_batches", "chunked_matmul"), "none"),
        "sequence_parallel": _seldom(draw, (True,), False),
        "communication": draw.choice(("compute_stream", None)),
        "head": draw.choice(("sharded", "replicated")),
        "logits": _seldom(draw, ("every", "none"), "last"),
        "kv_heads": _seldom(draw, ("expanded",), "shared"),
        "graph_capture": _seldom(draw, (False,), True),
    }
    machine = {
        "name": "box",
        "kind": "switch",
        "chip": chip(kind),
        "chips": chips,
        "link": LINK,
    }
    collectives = {name: draw.choice(known) for name, known in algorithms.items() if draw.random() < 0.7}
    return _scenario(draw, machine, choices, chips, collectives)


def _scenario(
    draw: Random, machine: dict[str, Any], layout: dict[str, Any], chips: int, collectives: dict[str, str]
) -> dict[str, Any]:
    own: dict[str, Any] = {"collective_overhead": draw.choice(("0 s", "3 us"))}
    if machine["kind"] == "switch" and draw.random() < 0.2:
        layout["mesh"] = {"tensor": draw.randint(1, chips)}
    for number, value in (("op_overhead", "3 us"), ("roofline_overlap", 0.7), ("l2_speed", 3)):
        if draw.random() < 0.2:
            own[number] = value
    if draw.random() < 0.8:
        own["matmul_balance"] = None  # tiles are in no closed form
    if machine["chip"].get("vector_peak") and draw.random() < 0.2:
        own["attention_format"] = "f32"
    for field in ("elementwise", "attention"):
        if draw.random() < 0.3:
            own[field] = draw.choice({"elementwise": ("fused", "kernel"), "attention": ("fused", "unfused")}[field])
    return {
        "name": "random",
        "topology": machine,
        "stack": software(machine["chip"]["name"], **own),
        "model": model(draw, chips),
        "workload": workload(draw, chips, list(machine["chip"]["peak"])),
        "layout": layout,
        "collectives": collectives,
        "engine": {"layers": "all", "steps": draw.choice(("each", "mean"))},
    }
