"""Stacks: chips, links and machines hold physics alone, software reaches so much of it, and results say what they
rest on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from typer.testing import CliRunner

from sim.cli import build_app
from sim.errors import InputError
from sim.simulate.latency import latency_s
from sim.simulate.run import run
from sim.specs import ChipSpec, LinkSpec, Software, Sourced, StackFile, load
from sim.specs.basis import rests_on
from sim.specs.load.yaml_text import read
from sim.studies.sensitivity import FACTORS, Option, measure_sensitivity

STACKS = load.shipped("stack")
ENTRIES = [(name, chip) for name, path in STACKS.items() for chip in read(path).get("chips", {})]
SCENARIO = "llama3_70b_tp8_ladder"


def stack(name: str, chip: str) -> Any:
    """A shipped stack on a shipped chip."""
    machine = {"name": "box", "kind": "switch", "chip": chip, "chips": 1, "link": "nvlink4_port"}
    return load.machine(str(_file("box.yaml", machine)), [f"stack={name}"])[1]


def _file(name: str, data: dict[str, Any]) -> Path:
    path = Path(name)
    path.write_text(yaml.safe_dump(data))
    return path


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["chip", "link", "topology"])
def test_files_of_chips_links_and_machines_have_no_constant_of_software(kind: str):
    """The constants of software are the fields of a stack; none of them is a key anywhere in these files."""
    software = set(Software.model_fields) - {"attention"}  # a word of its own elsewhere

    def keys(value: Any) -> set[str]:
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        return set(value if isinstance(value, dict) else ()).union(*map(keys, inner))

    for name, path in load.shipped(kind).items():
        assert not keys(read(path)) & software, name
    assert not (set(ChipSpec.model_fields) | set(LinkSpec.model_fields)) & set(Software.model_fields)


@pytest.mark.parametrize("name", STACKS)
def test_every_number_of_a_stack_says_how_it_came_about_and_where_from(name: str):
    for field, value in _sourced(StackFile.model_validate(read(STACKS[name]) | {"chips": _given(name)})):
        assert value.basis, field
        assert value.source, field
        assert not value.source.startswith("assumed") or value.basis in ("assumed", "carried"), field


@pytest.mark.parametrize("kind", ["chip", "link"])
def test_what_files_of_chips_and_links_assume_says_so_in_its_basis(kind: str):
    for name, path in load.shipped(kind).items():
        for field, value in read(path).items():
            if isinstance(value, dict) and str(value.get("source")).startswith("assumed"):
                assert value.get("basis") in ("assumed", "carried"), (name, field)


def test_a_value_that_stands_in_another_entry_is_a_reference():
    """No two entries of any stack say the same value of the same field from the same source."""
    seen: dict[tuple[str, str, str], tuple[str, str]] = {}
    for stack_name in STACKS:
        for chip, entry in _given(stack_name).items():
            for field, value in _values(entry):
                key = field, str(value["value"]), value["source"]
                assert key not in seen, (stack_name, chip, field, seen[key])
                seen[key] = stack_name, chip


def _values(entry: dict[str, Any], at: str = "") -> list[tuple[str, dict[str, Any]]]:
    """The values with a source in an entry, by their fields."""
    found = []
    for field, value in entry.items():
        if isinstance(value, dict):
            found += [(at + field, value)] if "value" in value else _values(value, f"{at}{field}.")
    return found


def _given(name: str) -> dict[str, Any]:
    """What the file says of each chip by itself, single values that it takes from elsewhere left out."""
    return {
        chip: {field: value for field, value in entry.items() if not (isinstance(value, dict) and "same_as" in value)}
        for chip, entry in read(STACKS[name]).get("chips", {}).items()
    }


def _sourced(value: Any, at: str = "") -> list[tuple[str, Sourced[Any]]]:
    if isinstance(value, Sourced):
        return [(at, value)]
    if isinstance(value, BaseModel):
        parts = [(name, getattr(value, name)) for name in value.model_fields_set]
    else:
        parts = list(value.items()) if isinstance(value, dict) else []
    return [found for name, part in parts for found in _sourced(part, f"{at}.{name}")]


@pytest.mark.parametrize(("name", "chip"), ENTRIES)
def test_every_entry_of_a_stack_can_be_used(name: str, chip: str):
    assert stack(name, chip).chip == chip


@pytest.mark.parametrize("name", load.shipped("topology"))
def test_the_stack_of_every_machine_knows_its_chip(name: str):
    spec, software = load.machine(name)
    assert software.name == spec.default_stack
    assert software.chip == spec.chip.name


# --- which stack, and what a setting changes -------------------------------------------------------------------------


def test_a_stack_follows_the_machine():
    """The scenario's stack on another chip is that stack's entry of the chip."""
    here, there = load.scenario(SCENARIO), load.scenario(SCENARIO, ["topology=hgx_h200"])
    assert (here.stack.name, here.stack.chip) == ("torch_compile", "h100_sxm")
    assert (there.stack.name, there.stack.chip) == ("torch_compile", "h200_sxm")
    assert there.stack.op_overhead.value == here.stack.op_overhead.value


def test_a_field_is_set_after_the_stack_was_chosen():
    """In whatever order the settings stand; of a stack that another replaces nothing is left."""
    own, other = "stack.op_overhead=9 us", "stack=ideal"
    assert load.scenario(SCENARIO, [own, "topology=hgx_h200"]).stack.op_overhead.value == pytest.approx(9e-6)
    assert load.scenario(SCENARIO, [other, own]).stack.op_overhead.value == pytest.approx(9e-6)
    assert load.scenario(SCENARIO, [own, other]).stack.op_overhead.value == 0
    assert load.machine("dgx_h100", [other, own])[1].op_overhead.value == pytest.approx(9e-6)


def test_on_the_ideal_stack_only_physics_takes_time():
    """Of a decode step without communication on one chip: all bytes at the data sheet's bandwidth."""
    settings = ["stack=ideal", "layout.mesh.tensor=1", "model.layers=2", "engine.layers=all"]
    found = run(load.scenario(SCENARIO, settings)).passes[0]
    moved = found.trace.program.bytes[found.trace.program.busy_ps > 0].sum()
    assert found.trace.makespan_ps == pytest.approx(moved / 3350e9 * 1e12, rel=0.02)


def test_a_chip_without_an_entry_is_an_error_that_names_others():
    with pytest.raises(InputError, match=r"stack 'jax_tpu' says nothing of this chip, got 'h100_sxm'; choose from tpu"):
        load.scenario(SCENARIO, ["stack=jax_tpu"])
    with pytest.raises(InputError, match=r"no such stack, got 'vlm'"):
        load.scenario(SCENARIO, ["stack=vlm"])


def test_references_lead_to_values():
    """Of a chip, of another stack's chip, of one value; what is carried over says so, with where from."""
    base = {"value": 0.5, "basis": "fitted", "source": "made up"}
    chips = {
        "h100_sxm": {"matmul_efficiency": base, "op_overhead": {**base, "value": "2 us"}, "fitted_on": "rows"},
        "h200_sxm": {"same_as": "h100_sxm", "source": "the same die", "op_overhead": {**base, "value": "3 us"}},
        "b200_sxm": {"hbm_efficiency": {"same_as": "best_kernels/b200_sxm"}},
        "mi300x": {"same_as": "h200_sxm"},
        "gb200": {"same_as": "gb300"},
        "gb300": {"same_as": "gb200"},
    }
    path = _file("own.yaml", {"name": "own", "elementwise": "kernel", "chips": chips})
    found = load.machine("hgx_h200", [f"stack={path}"])[1]
    assert found.elementwise == "kernel"
    assert (found.matmul_efficiency.value, found.op_overhead.value) == (0.5, pytest.approx(3e-6))
    assert found.matmul_efficiency.basis == "carried"
    assert found.matmul_efficiency.source == "as h100_sxm, the same die: made up"
    assert found.op_overhead.basis == "fitted"
    assert (found.fitted_on, found.matmul_efficiency.carried_from) == ("", "h100_sxm")
    further = load.machine("mi300x", [f"stack={path}"])[1]  # a reference to a reference
    assert further.matmul_efficiency.carried_from == "h100_sxm"
    assert further.op_overhead.carried_from == "h200_sxm"
    one = load.machine("hgx_b200", [f"stack={path}"])[1]
    assert one.hbm_efficiency.value == stack("best_kernels", "b200_sxm").hbm_efficiency.value
    with pytest.raises(InputError, match=r"same_as must name a chip, or STACK/CHIP, and lead to values"):
        load.machine("gb200_nvl72", [f"stack={path}"])


def test_an_entry_that_says_nothing_is_no_ideal_chip():
    path = _file("own.yaml", {"name": "own", "chips": {"h100_sxm": None}})
    with pytest.raises(InputError, match=r"own.yaml: chips.h100_sxm must be a mapping of values, or of same_as"):
        load.machine("dgx_h100", [f"stack={path}"])


# --- what a result rests on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(load.shipped("scenario")))
def test_every_scenario_says_what_it_rests_on(name: str):
    scenario = load.scenario(name)
    based = rests_on(scenario)
    assert based.constants
    assert based.text.startswith(f"{scenario.stack.name} on {scenario.topology.chip.name}; ")
    assert "\n" not in based.text
    for constant in based.constants:
        assert constant.field.rpartition(".")[2] in based.text


def test_the_line_stands_in_the_terminal_the_json_and_the_page():
    shown = CliRunner().invoke(build_app(()), ["run", SCENARIO, "--no-plots", "--set", "engine.layers=1"])
    line = rests_on(load.scenario(SCENARIO)).text
    assert f"rests on: {line}" in " ".join(shown.output.split())
    assert run(load.scenario(SCENARIO)).report.to_dict()["rests_on"]["text"] == line


# --- does the winner change ------------------------------------------------------------------------------------------


def _option(name: str, *settings: str) -> Option:
    scenario = load.scenario(SCENARIO, ["engine.layers=2", "topology=hgx_h200", *settings])
    return Option(name, scenario, latency_s(scenario))


def test_a_constant_that_decides_is_named():
    """Two of a kind, one of them with an overhead per kernel assumed a little smaller: twice that, and it loses."""
    value = "stack.op_overhead={value: %s, basis: assumed, source: assumed}"
    small, large = _option("small", value % "3 us", "stack.name=a"), _option("large", value % "3.1 us", "stack.name=b")
    found = measure_sensitivity([small, large])
    assert found.winner == "small"
    decisive = {(change.stack, change.field, change.factor): change for change in found.changes}
    assert decisive["a", "stack.op_overhead", 2.0].winner == "large"
    assert decisive["b", "stack.op_overhead", 0.5].winner == "large"
    assert ("a", "stack.op_overhead", 0.5) not in decisive
    assert "doubling stack.op_overhead of a on h200_sxm (assumed) makes large win" in "".join(found.lines)


def test_a_share_stays_at_most_1_and_a_multiple_is_doubled():
    """A kernel beside a collective loses so many multiprocessors for each channel: 6.3 become 12.6, not 1."""
    moved: dict[str, list[float]] = {}

    def seen(option: Option, time_s: float, field: str, value: float, known: dict[str, float]) -> Option:
        moved.setdefault(field, []).append(value)
        return option

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sim.studies.sensitivity._moved", seen)
        option = _option("one")
        measure_sensitivity([option])
    software = option.scenario.stack
    multiple, share = software.compute_interference.value, software.hbm_efficiency.value
    assert multiple > 1
    assert share > 0.5
    assert moved["stack.compute_interference"] == [multiple / 2, multiple * 2]
    assert moved["stack.hbm_efficiency"] == [share / 2, 1.0]
    assert all(value > 0 for values in moved.values() for value in values)


def test_options_that_share_a_constant_move_together():
    """Half the layers take half the time whatever a constant is."""
    whole = _option("whole")
    half = Option("half", load.scenario(SCENARIO, ["engine.layers=1", "topology=hgx_h200"]), whole.score / 2)
    found = measure_sensitivity([whole, half])
    assert (found.winner, found.changes) == ("half", ())
    assert found.moved > 3
    assert len(found.lines) == 1
    assert FACTORS == (0.5, 2.0)


def test_a_score_that_is_to_be_large_falls_where_latency_grows():
    """Throughput counts below 0: twice the overhead makes it smaller."""
    value = "stack.op_overhead={value: %s, basis: assumed, source: assumed}"
    options = [_option("small", value % "3 us", "stack.name=a"), _option("large", value % "3.1 us", "stack.name=b")]
    found = measure_sensitivity([Option(each.name, each.scenario, -1 / each.score) for each in options])
    assert found.winner == "small"
    assert {change.winner for change in found.changes} == {"large"}


@pytest.mark.release
def test_search_and_compare_say_it():
    search = ["search", "--model", "llama3_8b", "--topology", "hgx_h200", "--phase", "decode", "--batch", "8"]
    shown = CliRunner().invoke(build_app(()), [*search, "--set", "engine.layers=1", "--no-plots", "--sensitivity"])
    assert shown.exit_code == 0, shown.output
    assert "rests on: " in shown.output
    assert "latency: " in shown.output
    compare = ["compare", SCENARIO, "llama3_70b_tp8_standard", "--no-plots", "--set", "engine.layers=1"]
    shown = CliRunner().invoke(build_app(()), [*compare, "--sensitivity"])
    assert shown.exit_code == 0, shown.output
    assert "both rest on: torch_compile on h100_sxm" in shown.output
    assert "stays the best of 2" in shown.output
