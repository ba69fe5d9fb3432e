"""What there is to choose from is listed, with a line about each."""

import json

import pytest
from typer.testing import CliRunner

from sim.cli import build_app
from sim.cli.list_command import KINDS, listing
from sim.cli.options import completed
from sim.errors import InputError
from sim.layouts.residual import SCHEMES
from sim.lowering.pipeline.schedules import SCHEDULES
from sim.specs import load
from sim.specs.uses import PRESETS


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_one_line_about_it(kind: str):
    (rows,) = listing(kind).values()
    assert rows or kind == "plugins"  # of installed packages
    assert all(about and "\n" not in about for _, about in rows), [name for name, about in rows if not about]


def test_all_that_is_shipped_is_listed():
    found = json.loads(CliRunner().invoke(build_app(()), ["list", "--json"], catch_exceptions=False).output)
    assert list(found["scenarios"]) == list(load.shipped("scenario"))
    assert list(found["layouts"]) == [*PRESETS]
    assert list(found["residuals"]) == list(SCHEMES)
    assert list(found["pipelines"]) == list(SCHEDULES)
    assert "torus: multi_axis" in found["collectives"]["all_gather"]


def test_a_line_is_a_whole_statement():
    """Those taken from docstrings do not break off where the docstring's line does."""
    found = {name: text for kind in ("layouts", "residuals") for name, text in listing(kind)[kind]}
    assert all(text.endswith(".") for _, text in listing("layouts")["layouts"])
    assert found["weight_stationary_1d"].endswith("reduce-scatter(x), all-reduce(yz).")
    assert found["no_communication"].endswith("its values mean nothing")
    assert found["desync2"] != found["desync4"]


def test_the_help_names_every_kind():
    shown = CliRunner().invoke(build_app(()), ["list", "--help"], env={"COLUMNS": "200"}).output
    assert [kind for kind in KINDS if kind not in shown] == []


def test_an_unknown_kind_is_an_error():
    with pytest.raises(InputError, match="must be a kind that can be listed, got 'layout'; there are scenarios"):
        listing("layout")


def test_names_are_completed():
    assert completed("scenario")("palm540b_pre") == ["palm540b_prefill_ws2d_b1"]
    assert completed("topology")("nothing") == []


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("collective all_re", ["all_reduce"]),
        ("topology dgx1", ["dgx1_v100"]),
        ("validate po", ["pope"]),
        ("calibrate po", ["pope"]),
        ("list res", ["residuals"]),
        ("export out kin", ["kineto"]),
        ("compare out palm540b_pre", ["palm540b_prefill_ws2d_b1"]),
        ("search --model palm_5", ["palm_540b"]),
        ("search --phase dec", ["decode"]),
    ],
)
def test_names_are_completed_wherever_one_stands(words: str, names: list[str]):
    env = {
        "_SIM_COMPLETE": "complete_bash",
        "COMP_WORDS": f"sim {words}",
        "COMP_CWORD": str(len(words.split())),
    }
    found = CliRunner().invoke(build_app(()), [], prog_name="sim", env=env)
    assert found.output.split() == names


def test_quiet_prints_nothing_and_verbose_says_what_was_written(tmp_path):
    command = ["run", "palm540b_decode_ws2d", "--set", "engine.layers=1", "--out", str(tmp_path), "--no-plots"]
    quiet = CliRunner().invoke(build_app(()), [*command, "--quiet"], catch_exceptions=False)
    assert quiet.output == ""
    verbose = CliRunner().invoke(build_app(()), [*command, "--verbose"], catch_exceptions=False)
    assert "simulated in" in verbose.stderr
    assert "manifest.json" in verbose.stderr
