"""The JSON Schemas describe what the loader accepts, and the shipped ones are the current ones."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

import sim
from sim import specs
from sim.collectives import COLLECTIVES, algorithm_names
from sim.collectives.loop import LoopForm
from sim.specs import load
from sim.specs.load import schema
from sim.specs.uses import PRESETS

SCHEMAS = {kind: json.loads(text) for kind, text in schema.schemas().items()}
SHIPPED = [(kind, path) for kind in SCHEMAS for path in load.shipped(kind).values()]
IDS = [f"{kind}-{path.stem}" for kind, path in SHIPPED]


def accepts(kind: str, data: object) -> bool:
    return Draft202012Validator(SCHEMAS[kind]).is_valid(data)


def data_of(kind: str, name: str) -> dict:
    return yaml.safe_load(load.shipped(kind)[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_schema_is_valid_and_the_one_in_the_package(kind):
    Draft202012Validator.check_schema(SCHEMAS[kind])
    packaged = Path(sim.__file__).parent / "specs" / "schemas" / f"{kind}.json"
    assert json.loads(packaged.read_text(encoding="utf-8")) == SCHEMAS[kind], "run: sim schema --out sim/specs/schemas"


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=IDS)
def test_a_shipped_file_satisfies_its_schema(kind, path):
    assert accepts(kind, yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(("kind", "path"), SHIPPED, ids=IDS)
def test_a_shipped_file_points_its_editor_at_its_schema(kind, path):
    first = path.read_text(encoding="utf-8").partition("\n")[0]
    match = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)
    assert match
    assert (path.parent / match[1]).resolve() == Path(sim.__file__).parent / "specs" / "schemas" / f"{kind}.json"


def test_a_field_may_be_a_name_or_written_out():
    scenario = data_of("scenario", "palm540b_decode_ws2d")
    scenario["topology"] = data_of("topology", "tpu_v4_4x4x4")
    scenario["topology"]["link"] = {"name": "link", "bandwidth": "45 GB/s", "latency": {"value": "1 us"}}
    assert accepts("scenario", scenario)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("workload", "batch"), 0),
        (("workload", "phase"), "prefil"),
        (("workload", "bacth"), 1),
        (("reference", "latency"), "1.8"),
        (("reference", "latency"), 1.8),
        (("reference", "latency"), {"value": "1 s"}),
        (("collectives",), {"all_gather": "rng"}),
        (("collectives",), {"allgather": "ring"}),
        (("name",), "a/b"),
    ],
)
def test_what_the_loader_rejects_an_editor_rejects(path, value):
    scenario = data_of("scenario", "palm540b_decode_ws2d")
    assert accepts("scenario", scenario)
    broken = copy.deepcopy(scenario)
    holder = broken
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert not accepts("scenario", broken)


def test_the_names_a_file_may_use_are_those_of_the_functions():
    assert {name: algorithm_names(name) for name in COLLECTIVES} == specs.ALGORITHMS
    assert LoopForm.__args__ == specs.LOOP_FORMS
    ffn = SCHEMAS["scenario"]["$defs"]["LayoutSpec"]["properties"]["ffn"]["anyOf"][0]
    assert set(ffn["anyOf"][0]["enum"]) == set(PRESETS)  # beside presets of the file itself
