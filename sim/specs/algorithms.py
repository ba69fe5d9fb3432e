"""Names of the collectives' algorithms; tests hold them equal to the functions."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, WithJsonSchema

from sim.errors import suggest
from sim.specs import plugins
from sim.specs.base import wrong

_ON_AXES = ("multi_axis", "bidirectional_ring", "ring", "line")
_ON_ROUTES = ("one_shot", "halving_doubling")
_NCCL_RINGS = ("auto", "ring_ll", "ring_ll128", "ring_simple")
ALGORITHMS: dict[str, tuple[str, ...]] = {
    "all_gather": (*_ON_AXES, *_ON_ROUTES, *_NCCL_RINGS),
    "reduce_scatter": (*_ON_AXES, *_ON_ROUTES, *_NCCL_RINGS, "multimem"),
    "all_reduce": (
        *_ON_AXES,
        "one_shot",
        "two_shot",
        "halving_doubling",
        "tree",
        "hierarchical",
        "cube_mesh",
        *_NCCL_RINGS,
        "tree_ll",
        "tree_ll128",
        "tree_simple",
        "nvls",
        "nvls_tree",
        "multimem",
        "multimem_one_shot",
    ),
    "all_to_all": ("multi_axis", "dimension_ordered", "one_shot", "auto", "send_recv"),
    "broadcast": ("spanning_trees", "ring", "tree", *_NCCL_RINGS),
    "permute": ("neighbour",),
    "reduce": ("spanning_trees", "ring", "tree", *_NCCL_RINGS),
    "gather": ("spanning_trees", "one_shot", "auto", "send_recv"),
    "scatter": ("spanning_trees", "one_shot", "auto", "send_recv"),
    "sendrecv": ("ring", "auto", "send_recv"),
}
LoopForm = Literal["one_way", "bidirectional_throughput", "bidirectional_latency", "direct"]
LOOP_FORMS: tuple[str, ...] = get_args(LoopForm)
"""Form of the looped collectives in a collective matmul."""


def plugin_algorithms(collective: str) -> tuple[str, ...]:
    """Returns the names of a collective's algorithms that plugins registered."""
    names = (name.split() for name in plugins.registered("collective"))
    return tuple(algorithm for of, algorithm in names if of == collective)


def _choose(allowed: dict[str, tuple[str, ...]]) -> AfterValidator:
    def check(chosen: dict[str, str]) -> dict[str, str]:
        for name, algorithm in chosen.items():
            if name not in allowed:
                raise wrong(name, rule="unknown collective", hint=suggest(name, allowed))
            known = *allowed[name], *plugin_algorithms(name)
            if algorithm not in known:
                hint = suggest(algorithm, known)
                raise wrong(name, rule=f"no algorithm of {name}", got=algorithm, hint=hint)
        return chosen

    return AfterValidator(check)


def _choose_schema(allowed: dict[str, tuple[str, ...]]) -> WithJsonSchema:
    properties = {name: {"enum": list(algorithms)} for name, algorithms in allowed.items()}
    return WithJsonSchema({"type": "object", "additionalProperties": False, "properties": properties})


_SCENARIO_ALGORITHMS = {**ALGORITHMS, "collective_matmul": LOOP_FORMS}

Algorithms = Annotated[dict[str, str], _choose(ALGORITHMS), _choose_schema(ALGORITHMS)]
LoopsAndAlgorithms = Annotated[dict[str, str], _choose(_SCENARIO_ALGORITHMS), _choose_schema(_SCENARIO_ALGORITHMS)]
