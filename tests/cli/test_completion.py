"""Completion of `--set` in the shell: keys, nested ones, and values with names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sim.cli.completion import completed_setting, join_bash_words, list_settings
from sim.specs import PerturbSpec, load
from sim.specs.workload import Workload

WORKLOAD = [
    (name, {"routing": ".", "chunk": "=.", "speculation": "=."}.get(name, "="))
    for name in sorted(Workload.model_fields)
]
"""Fields, and what follows each: a value, keys, or either."""


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("workl", [f"workload.{name}{end}" for name, ends in WORKLOAD for end in ends]),
        ("workload.phase", ["workload.phase=prefill", "workload.phase=decode", "workload.phase=generate"]),
        ("workload.phase=d", ["workload.phase=decode"]),
        ("padding.eliminate=t", ["padding.eliminate=true"]),
        ("engine.kernel=", ["engine.kernel=simpy", "engine.kernel=compiled", "engine.kernel=auto"]),
        ("model.ffn=m", ["model.ffn=mlp"]),
        ("link.lat", ["link.latency=", "link.latency."]),
        ("topology.link.lat", ["topology.link.latency=", "topology.link.latency."]),
        ("collectives.permute", ["collectives.permute=neighbour"]),
        ("workload.batch=", []),
        ("nonsense", []),
        ("nonsense.more=", []),
    ],
)
def test_settings_of_a_scenario(text, found):
    assert completed_setting("scenario")(text) == found


@pytest.mark.parametrize(("key", "kind"), [("topology", "topology"), ("model", "model"), ("stack", "stack")])
def test_values_that_are_files_are_the_shipped_ones(key, kind):
    assert list_settings("scenario", f"{key}=") == [f"{key}={name}" for name in load.shipped(kind)]


def test_settings_of_a_machine_are_its_fields_and_what_stands_beside_it():
    complete = completed_setting("topology")
    assert complete("link.lat") == ["link.latency=", "link.latency."]
    assert {text.rstrip("=.") for text in complete("perturb.")} == {f"perturb.{n}" for n in PerturbSpec.model_fields}
    assert complete("layout") == []


@pytest.mark.parametrize(
    ("words", "place", "joined", "at"),
    [
        (["sim", "run", "x", "--set", "a.b", "=", "c"], 6, ["sim", "run", "x", "--set", "a.b=c"], 4),
        (["sim", "run", "x", "--set", "a.b", "="], 5, ["sim", "run", "x", "--set", "a.b="], 4),
        (
            ["sim", "run", "--set", "a", "=", "1", "--set", "b", "=", "2"],
            9,
            ["sim", "run", "--set", "a=1", "--set", "b=2"],
            5,
        ),
        (["sim", "run", "--set", "a", "=", "1", "x"], 6, ["sim", "run", "--set", "a=1", "x"], 4),
    ],
)
def test_bash_splits_words_at_the_equals_sign_and_they_are_joined(words, place, joined, at):
    environ = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(place)}
    assert join_bash_words(environ) == joined[at]
    assert (environ["COMP_WORDS"].split("\n"), int(environ["COMP_CWORD"])) == (joined, at)


def test_bash_gets_the_value_alone():
    words = ["sim", "run", "x", "--set", "layout.overlap", "=", "c"]
    given = {"_SIM_COMPLETE": "complete_bash", "COMP_WORDS": "\n".join(words), "COMP_CWORD": "6"}
    command = "import sys; sys.argv[0] = 'sim'; from sim.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", command], env=os.environ | given, capture_output=True, text=True)
    assert done.stdout.split() == ["collective_matmul", "chunked_matmul"]
