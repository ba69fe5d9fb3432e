"""No scenario, valid or broken, gives a traceback, a hang, or a figure that is negative or no number."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from jsonschema import Draft202012Validator
from support.fuzz.campaign import fuzz
from support.fuzz.outcomes import KINDS, PASSES, run_case
from support.fuzz.random_values import SCHEMAS, RandomValues

COUNTS = {"valid": 200, "mutated": 350}
"""Inputs of the short run; by default a part of them."""


def check(kind: str, count: int, seed: int, folder: Path, jobs: int = 1) -> None:
    outcomes = fuzz(kind, count, seed, folder, jobs)
    print(f"{kind}, seed {seed}: {dict(outcomes.most_common())}")
    failed = {outcome: number for outcome, number in outcomes.items() if outcome not in PASSES}
    assert not failed, f"inputs in {folder}"
    assert outcomes.total() == count
    assert outcomes["ok" if kind == "valid" else "refused"] > count / 2


@pytest.mark.parametrize("part", [14, pytest.param(1, marks=pytest.mark.release)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_input_runs_or_is_refused_in_one_line(kind: str, part: int, tmp_path: Path):
    check(kind, COUNTS[kind] // part, 1, tmp_path)


@pytest.mark.release
@pytest.mark.parametrize("kind", KINDS)
def test_every_one_of_10000_inputs_runs_or_is_refused_in_one_line(kind: str, tmp_path: Path):
    check(kind, 10_000, 2, tmp_path, os.cpu_count() or 1)


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_is_known_by_its_number(kind: str, tmp_path: Path):
    """The same file and outcome again, whatever ran before: a failure can be repeated."""
    found = []
    for name in ("once", "again"):
        folder = tmp_path / name
        folder.mkdir()
        outcome = run_case(kind, 3, 5, folder)
        found.append((outcome, {path.name: path.read_bytes() for path in folder.glob("*.*")}))
    assert found[0] == found[1]


@pytest.mark.parametrize("kind", [kind for kind in SCHEMAS if kind in ("chip", "link", "nccl", "model")])
def test_random_values_satisfy_their_schema(kind: str):
    schema = SCHEMAS[kind]
    for seed in range(30):
        drawn = RandomValues(np.random.default_rng(seed), kind).value(schema, kind)
        Draft202012Validator(schema).validate(yaml.safe_load(yaml.safe_dump(drawn)))


@pytest.mark.slow
def test_random_values_reach_every_field_of_a_scenario():
    """Every property of every definition in the scenario's schema is drawn within 400 values of its definition."""
    definitions = SCHEMAS["scenario"]["$defs"]
    values = RandomValues(np.random.default_rng(1), "scenario")
    for name, part in definitions.items():
        drawn = {key for _ in range(400) for key in values.value(part, name)} if "properties" in part else set()
        assert drawn >= set(part.get("properties", {})), name
