"""Random scenarios that the loader accepts: drawn from the schema, then made to agree from field to field."""

from __future__ import annotations

import copy
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import TypeAdapter

from sim import topology as machines
from sim import units
from sim.errors import InputError
from sim.specs import DTYPE_BYTES, Model, TopologySpec, load
from sim.specs.chip import matmul_format
from sim.specs.load.boxes import inherit
from sim.specs.load.references import expand

from .random_values import SCHEMAS, RandomValues

_MOST_CHIPS = 16
_SHAPES = ((2,), (4,), (8,), (3,), (2, 2), (4, 2), (4, 4), (1, 4), (2, 2, 2), (4, 2, 2), (2, 2, 4))
_PHASES = {"prefill": ("prompt",), "decode": ("context", "generate"), "generate": ("prompt", "generate")}
_OPTIONAL = {"padding": 0.2, "memory_pool": 0.2, "perturb": 0.25, "collectives": 0.3, "engine": 0.4, "reference": 0.1}
"""Probability of each part of a scenario that may be left out."""
_REQUIRED = {"name", "topology", "model", "workload", "layout", "ffn", "attention", "phase", "batch", "weights"}
_REPAIRS = 25


def valid_scenario(rng: np.random.Generator, folder: Path) -> Path:
    """Write a scenario to `folder` and return its path.

    Fields that the loader refuses are removed, one after the other; where a required one is refused, it stays.
    """
    data = _drawn(RandomValues(rng, "scenario"))
    for attempt in range(_REPAIRS):
        path = folder / f"draft{attempt}.yaml"  # a name of its own: the loader caches files by name and time
        path.write_text(yaml.safe_dump(data, sort_keys=False, allow_unicode=True), encoding="utf-8")
        try:
            load.scenario(str(path))
            break
        except InputError as error:
            if not _remove(data, error.where.rpartition(": ")[2].split(".")):
                break
        except Exception:  # the run of this case meets it again and reports it
            break
    for draft in folder.glob("draft*.yaml"):
        if draft != path:
            draft.unlink()
    return path.rename(folder / "scenario.yaml")


def _remove(data: dict[str, Any], keys: list[str]) -> bool:
    """Removes the innermost optional field on the way to `keys`; False where there is none."""
    holders: list[Any] = [data]
    for key in keys:
        if not isinstance(holders[-1], dict) or key not in holders[-1]:
            break
        holders.append(holders[-1][key])
    for key, holder in reversed(list(zip(keys, holders, strict=False))):
        if isinstance(holder, dict) and key in holder and key not in _REQUIRED and keys[0] not in ("model", "topology"):
            del holder[key]
            return True
    return False


def _drawn(values: RandomValues) -> dict[str, Any]:
    topology, spec = _topology(values)
    data: dict[str, Any] = {"name": "random", "topology": topology}
    for name, definition in (("model", "Model"), ("workload", "Workload"), ("layout", "LayoutSpec")):
        data[name] = values.definition(definition)
    for name, part in SCHEMAS["scenario"]["properties"].items():
        if name not in data and name not in ("sweep", "figure", "plugins") and values.chance(_OPTIONAL.get(name, 0.3)):
            data[name] = values.value(part, name)
    if values.chance(0.8):  # `ffn` or `uses`, and a stack that is there
        data["layout"].pop("uses", None)
        if isinstance(topology, dict):
            topology.pop("default_stack", None)
    _agree_model(values, data["model"])
    _agree_workload(values, data["workload"], spec)
    _agree_layout(values, data, spec)
    _agree_pipeline(values, data)
    _agree_others(values, data, spec)
    if values.chance(0.08):
        _add_sweep(values, data)
    return data


def _topology(values: RandomValues) -> tuple[Any, TopologySpec]:
    """A machine as in a file, and validated."""
    if values.chance(0.3):
        shipped = {name: load.topology_spec(name) for name in load.shipped("topology")}
        name = values.choice([name for name, spec in shipped.items() if spec.chip_count <= _MOST_CHIPS])
        return name, shipped[name]
    while True:
        drawn = ("boxes", "nodes", "links", "link_types")
        data = values.definition(values.choice(("TorusSpec", "SwitchSpec", "GraphSpec")), drawn)
        if data["kind"] == "torus":
            sizes = values.choice(_SHAPES)
            data["axes"] = {
                name: {"size": n, "wrap": values.chance(0.8)} for name, n in zip("xyz", sizes, strict=False)
            }
            if len(sizes) > 1 and values.chance(0.1):
                data["axes"]["x"] |= {"wrap": True, "twist": {"y": max(1, sizes[1] // 2)}}
            if values.chance(0.2):
                data["axes"]["x"]["link"] = values.definition("LinkSpec")
        elif data["kind"] == "switch":
            data["chips"] = values.choice((1, 2, 3, 4, 8, 16))
        else:
            data.setdefault("chip", values.choice(list(load.shipped("chip"))))
            _add_graph(values, data)
            if values.chance(0.3):
                data = _in_boxes(values, data)
        try:
            raw = expand("topology", copy.deepcopy(data), (), {(): "topology"}, where="", beside=Path())
            inherit(raw, (), {(): "topology"})
            return data, TypeAdapter(TopologySpec).validate_python(raw)
        except ValueError:
            continue


def _in_boxes(values: RandomValues, box: dict[str, Any]) -> dict[str, Any]:
    """A machine of such boxes; chip, launch overhead and NCCL are the box's."""
    leaves = {"link": values.definition("LinkSpec"), "boxes": values.choice((1, 2, 3))}
    boxes = {"count": values.choice((1, 2, 3)), "of": box}
    boxes |= {"leaves": leaves} if values.chance(0.5) else {"rails": {"link": leaves["link"]}}
    if "leaves" in boxes or values.chance(0.5):
        boxes["spines"] = {"count": values.choice((1, 2)), "link": values.definition("LinkSpec")}
    return {"name": "boxes", "kind": "graph", "boxes": boxes}


def _add_graph(values: RandomValues, data: dict[str, Any]) -> None:
    """A ring, a full mesh, or two boxes with a link between them; every chip is reachable."""
    chips = [f"gpu{i}" for i in range(values.choice((2, 3, 4, 8)))]
    fast, slow = "fast", "slow"
    data["link_types"] = {fast: values.definition("LinkSpec"), slow: values.definition("LinkSpec")}
    nodes, shape = dict.fromkeys(chips, "chip"), values.choice(("ring", "mesh", "switch", "socket"))
    if shape == "ring":
        edges = list(zip(chips, [*chips[1:], chips[0]], strict=True))[: len(chips) if len(chips) > 2 else 1]
    elif shape == "mesh":
        edges = [(a, b) for i, a in enumerate(chips) for b in chips[:i]]
    else:
        nodes |= {"s0": shape, "s1": shape}
        edges = [(chip, f"s{2 * i // len(chips)}") for i, chip in enumerate(chips)] + [("s0", "s1")]
    if values.chance(0.15):
        nodes["m"] = "multicast"
        edges += [(chip, "m") for chip in chips]
    count = values.choice((1, 1, 2))
    data["nodes"] = nodes
    data["links"] = [
        {"between": list(edge), "link": slow if edge == ("s0", "s1") else fast, "count": count} for edge in edges
    ]


def _agree_model(values: RandomValues, model: dict[str, Any]) -> None:
    model["heads"] = model["kv_heads"] * values.choice((1, 1, 2, 4, 6))
    for name, chance in (("experts", 0.4), ("latent", 0.3), ("window", 0.5)):
        if not values.chance(chance):
            model.pop(name, None)
    if "latent" in model:
        model["heads"] = model["kv_heads"]
        model["latent"]["rope"] = model["d_head"] // 2
    if experts := model.get("experts"):
        groups = values.choice((1, 2))
        experts |= {"count": groups * values.choice((4, 8, 12)), "groups": groups, "top_k": values.choice((1, 2))}
        experts |= {"d_ff": values.choice((32, 64)), "shared": values.choice((0, 1, 2)), "top_groups": groups}
    if "padded_heads" in model:
        model["padded_heads"] = model["heads"] + values.choice((0, 1, 4)) * model["kv_heads"]


def _agree_workload(values: RandomValues, workload: dict[str, Any], spec: TopologySpec) -> None:
    for name in ("prompt", "context", "generate"):
        workload.pop(name, None)
        if name in _PHASES[workload["phase"]]:
            workload[name] = values.value({"type": "integer"}, name)
    for name in ("weights", "activations", "kv_cache"):
        if workload.get(name, "bf16") not in spec.chip.peak:
            workload[name] = values.choice([dtype for dtype in DTYPE_BYTES if dtype in spec.chip.peak])
    if matmul_format(workload.get("operands", "bf16")) not in spec.chip.peak or values.chance(0.7):
        workload.pop("operands", None)
    if "routing" in workload:
        workload["routing"].pop("trace", None)


def _agree_layout(values: RandomValues, data: dict[str, Any], spec: TopologySpec) -> None:
    layout = data["layout"]
    layout.get("experts", {}).pop("replicas", None)
    sends = layout.pop("kv_transfer", None) is not None and data["workload"]["phase"] == "prefill"
    if spec.kind == "torus":
        data["workload"]["batch"] *= values.choice((1, spec.chip_count, spec.chip_count))
        known = SCHEMAS["scenario"]["$defs"]["LayoutSpec"]["properties"]["ffn"]["anyOf"][0]["anyOf"][0]["enum"]
        layout["ffn"] = values.choice(known)
        return
    layout |= {"ffn": "tensor_parallel", "attention": "heads"}
    if "experts" in data["model"] and "residual" not in layout:
        layout["ffn"] = values.choice(("tensor_parallel", "expert_parallel", "tensor_expert_parallel"))
        data["workload"]["batch"] *= values.choice((1, spec.chip_count))
    if "residual" in layout:
        data["model"]["block"] = layout["block"] = "parallel" if layout["residual"] == "parallel" else "serial"
    if layout.get("residual") == "hybrid":
        layout["hybrid"] = {"ladder_layers": 1}
    stages = values.choice([n for n in (1, 1, 1, 2, 4) if n <= spec.chip_count])
    tensor = values.choice([n for n in (1, 2, 4, 8, 16) if n * stages <= spec.chip_count])
    layout["mesh"] = {"tensor": tensor, "pipeline": stages}
    data["model"]["layers"] = max(data["model"]["layers"], stages)
    if sends and 2 * tensor <= spec.chip_count:
        del layout["mesh"]
        layout.pop("pipeline", None)
        data["mesh"], layout["kv_transfer"] = {"role": 2, "t": tensor}, {"axis": "role"}


def _agree_pipeline(values: RandomValues, data: dict[str, Any]) -> None:
    pipeline = data["layout"].get("pipeline")
    if not pipeline:
        return
    pipeline.pop("queue", None)
    if pipeline["schedule"] == "bounded_queue":
        pipeline["queue"] = {"capacity": values.choice((1, 2)), "retry": values.choice(("0 s", "7 us", "1 ms"))}
    stages = data["layout"].get("mesh", {}).get("pipeline", 1)
    if "stages" in pipeline:
        pipeline["stages"] = [1] * (stages - 1) + [data["model"]["layers"] - stages + 1]
    if "arrivals" in pipeline:
        given, count = pipeline["arrivals"], pipeline.get("requests", 8)
        times = sorted(
            (values.value(_DURATION, "times") for _ in range(count)), key=lambda text: units.parse(text, "s")
        )
        ways = {"in_flight": values.choice((1, 2, 4)), "times": times, "every": given.get("every", "20 us")}
        pipeline["arrivals"] = dict([values.choice(list(ways.items()))])


_DURATION = {"type": "string", "pattern": units.PATTERN, "examples": ["1 us"]}


def _link_names(spec: TopologySpec) -> list[str]:
    """Returns the names of a machine's links; one that is none where it has no links, or cannot be built."""
    with suppress(InputError):
        if names := [link.name for link in machines.build(spec).links]:
            return names
    return ["gpu0->gpu1#0"]


def _agree_others(values: RandomValues, data: dict[str, Any], spec: TopologySpec) -> None:
    perturb, padding, pool = data.get("perturb"), data.get("padding"), data.get("memory_pool")
    if perturb:
        names = _link_names(spec)
        for straggler in perturb.get("stragglers", []):
            straggler["chips"] = [int(values.rng.integers(data["layout"].get("mesh", {}).get("tensor", 2)))]
            if "layers" in straggler:
                straggler["layers"] = [int(values.rng.integers(data["model"]["layers"]))]
        for slow in perturb.get("slow_links", []):
            slow["links"] = [values.choice(names)]
        if "failed_links" in perturb:
            perturb["failed_links"] = [values.choice(names)]
    if padding and isinstance(padding["real_lengths"], list) and "prompt" in data["workload"]:
        prompt, batch = data["workload"]["prompt"], data["workload"]["batch"]
        padding["real_lengths"] = values.rng.integers(1, prompt + 1, size=batch).tolist()
    if pool:
        data["model"]["layers"] = pool["offload_every"] * data["layout"].get("mesh", {}).get("pipeline", 1)
        data.get("engine", {}).pop("layers", None)
    if data["model"].pop("nominal_parameters", None):
        counted = Model.model_validate(data["model"]).counted_parameters
        data["model"]["nominal_parameters"] = float(counted * values.choice((0.95, 1.0, 1.05)))


def _add_sweep(values: RandomValues, data: dict[str, Any]) -> None:
    options = {
        "workload.batch": [1, 2, 4],
        "model.d_ff": [32, 64],
        "engine.shortcuts": ["auto", "off"],
        "kinds $x$": {"=a": {"workload.weights": "bf16"}, "b": {"workload.batch": 8}},
    }
    first, second = values.rng.choice(list(options), 2, replace=False).tolist()
    data["sweep"] = {first: options[first], second: options[second]}
    if values.chance(0.5):
        figure = values.definition("FigureSpec", omitted=("published", "published_file", "relative_to", "crossovers"))
        data["figure"] = figure | {"x": first, "series": second}
