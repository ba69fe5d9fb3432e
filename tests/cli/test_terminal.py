"""Text of users goes to the terminal as text: no escape sequence, no markup, whatever it comes from."""

from __future__ import annotations

import ast
import io
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from support.commands import call
from support.files import FILES, write
from support.modules import MODULES, ROOT, imports
from support.selection import each_once
from typer.testing import CliRunner

from sim.cli import build_app
from sim.errors import InputError
from sim.report.present.bottlenecks import render
from sim.terminal import plain_console, printable

EVIL = "a\x1b[31m\x07\x9b2J[red][/]:boom:\u202eb"
SHOWN = r"a\x1b[31m\x07\x9b2J[red][/]:boom:\u202eb"


def said(*arguments: object) -> str:
    """All that a command prints, errors included."""
    try:
        done = CliRunner().invoke(build_app(()), [str(each) for each in arguments], catch_exceptions=False)
    except InputError as error:
        return str(error)
    return done.stdout + done.stderr


def is_clean(text: str) -> bool:
    return printable(text) == text


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_prints_past_the_one_place_that_escapes(path: Path):
    """A console, `print`, `typer.echo` and markup are used in one module alone."""
    if path.name == "terminal.py":
        return
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = {ast.unparse(node.func) for node in calls}
    assert not names & {"print", "typer.echo", "click.echo", "typer.secho", "Console", "sys.stdout.write"}
    assert not any(name.startswith("rich.markup") for name in imports(path))


def test_a_console_shows_brackets_and_escapes():
    console = plain_console()
    console.file = io.StringIO()
    from rich.table import Table

    table = Table(EVIL, title=EVIL)
    table.add_row(EVIL)
    for text in (EVIL, table):
        console.print(text, width=300)
    assert console.file.getvalue().count(SHOWN) == 4
    assert "\x1b" not in console.file.getvalue()


@pytest.mark.parametrize(
    "command",
    [
        "run palm540b_decode_ws2d --explain --critical-path --no-plots",
        "sweep pope_crossover --no-plots",
        "search --model llama3_8b --topology dgx_h100 --phase decode --batch 4 --no-plots",
        "compare llama3_70b_tp8_standard llama3_70b_tp8_ladder --no-plots",
        "collective all_reduce --topology dgx_h100 --min 1K --max 1M --no-plots",
        "topology dgx_h100",
    ],
)
def test_what_goes_to_another_program_is_not_cut(command: str, tmp_path: Path):
    """However narrow the terminal around it is."""
    name, *arguments = command.split()
    takes = {"run", "sweep", "search", "compare"} & {name}
    more = [*(["--set", "engine.layers=2"] if takes else []), *(["--out", tmp_path] if takes else [])]
    text = subprocess.run(
        [sys.executable, "-m", "sim", name, *arguments, *map(str, more)],
        env={**os.environ, "COLUMNS": "30"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "…" not in text
    assert max(map(len, text.splitlines())) > 30


def test_half_a_character_in_a_path_can_be_printed():
    assert printable(b"a\xff".decode(errors="surrogateescape")) == r"a\udcff"


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder of files whose own name is the text."""
    place = tmp_path / EVIL.replace("/", "")
    write(place)
    return place


@pytest.mark.slow
def test_every_command_escapes_the_paths_that_it_names(evil: Path):
    scenario, out = evil / "scenario.yaml", evil / "out"
    commands = [
        ("run", scenario, "--out", out, "--verbose", "--critical-path", "--explain"),
        ("run", scenario, "--out", out, "--set", f"description={EVIL}"),
        ("run", scenario, "--out", out, "--set", f"layout.{EVIL}=1"),
        ("run", evil / "nothing.yaml"),
        ("plot", out / "tiny", "timeline"),
        ("plot", out / "nothing"),
        ("export", out / "tiny", "perfetto"),
        ("export", out / "tiny", EVIL),
        ("compare", out / "tiny", out / "tiny", "--out", out),
        ("compare", scenario, scenario, "--out", out, "--no-plots"),
        ("sweep", scenario, "--out", out, "--set", "sweep={workload.batch: [4, 8]}"),
        ("topology", evil / "topology.yaml", "--out", out),
        ("collective", "all_reduce", "--topology", evil / "topology.yaml", "--size", "1KiB"),
        ("collective", "all_reduce", "--topology", evil / "link.yaml", "--size", "1KiB"),
        ("collective", EVIL, "--topology", evil / "topology.yaml", "--size", "1KiB"),
        ("replay", evil / "traces", "--topology", evil / "topology.yaml"),
        ("validate", evil / "suite.yaml"),
        ("calibrate", evil / "suite.yaml"),
        ("list", EVIL),
        ("schema", "--out", out / "schemas"),
    ]
    for command in commands:
        text = said(*command)
        assert text, command
        assert is_clean(text), command


def test_text_of_a_sweep_with_brackets_is_shown_as_it_is(tmp_path: Path):
    labels = {"[red]a": {"workload.batch": 4}, "[/]": {"workload.batch": 8}}
    scenario = write(tmp_path, {"scenario.sweep": {"[bold]axis": labels}})
    text = said("sweep", scenario, "--out", tmp_path / "out", "--no-plots")
    assert "[red]a" in text
    assert "[/]" in text


def texts(data: object, path: str) -> list[str]:
    """Fields of a file that are text, or a key of which is."""
    if isinstance(data, dict):
        return [found for key, value in data.items() for found in texts(value, f"{path}.{key}")]
    return [path] if isinstance(data, str) else []


@pytest.mark.parametrize("field", [found for kind, data in FILES.items() for found in texts(data, kind)])
def test_no_text_of_a_file_may_have_control_characters(tmp_path: Path, field: str):
    code, text = call("run", write(tmp_path, {field: EVIL}), "--out", tmp_path / "out")
    assert code == 2
    assert is_clean(text)


@pytest.mark.parametrize("kind", ["scenario", "topology"])
def test_a_description_may_have_lines_and_no_control_characters(tmp_path: Path, kind: str):
    assert (
        call("run", write(tmp_path, {f"{kind}.description": "two\nlines\tß [red]"}), "--out", tmp_path / "out")[0] == 0
    )
    code, text = call("run", write(tmp_path, {f"{kind}.description": "x\x1b[2J"}), "--out", tmp_path / "out")
    assert code == 2
    assert text == f"{tmp_path}/{kind}.yaml: description: text must have no control characters, got 'x\\x1b[2J'"


GRAPH = {
    "name": "g",
    "kind": "graph",
    "chip": "chip.yaml",
    "nodes": {"a": "chip", "b": "chip", "s": "switch"},
    "link_types": {"wire": "link.yaml"},
    "links": [{"between": ["a", "s"], "link": "wire"}, {"between": ["b", "s"], "link": "wire"}],
}
BAD_NAMES = ["", "-a", "a b", "[red]", "a\x1b[31m", "a\n", "ä", "a/b", "=1+1", "a" * 101]


@pytest.mark.parametrize(("old", "name"), each_once(product(("g", "a", "s", "wire"), BAD_NAMES)))
def test_machines_nodes_and_link_types_have_names_by_one_rule(tmp_path: Path, old: str, name: str):
    write(tmp_path)

    def renamed(data: object) -> object:
        if isinstance(data, dict):
            return {renamed(key): renamed(value) for key, value in data.items()}
        return [renamed(value) for value in data] if isinstance(data, list) else name if data == old else data

    machine = tmp_path / "topology.yaml"
    machine.write_text(yaml.safe_dump(renamed(GRAPH)))
    for command in (
        ("topology", machine, "--no-plots"),
        ("collective", "all_reduce", "--topology", machine, "--size", "1KiB"),
        ("run", tmp_path / "scenario.yaml", "--out", tmp_path / "out"),
        ("search", "--model", tmp_path / "model.yaml", "--topology", machine, "--phase", "decode", "--batch", "4"),
    ):
        code, text = call(*command)
        assert code == 2, command
        rule = "100 characters" if len(name) > 100 else "must be letters, digits, '_', '-' and '.'"
        assert text.startswith(f"{machine}: ")
        assert rule in text
        assert is_clean(text)
    machine.write_text(yaml.safe_dump(GRAPH))
    assert call("topology", machine, "--no-plots")[0] == 0


def test_names_in_tables_of_traces_are_escaped(capsys):
    """What waits on a critical path may have a name from a file of another tool."""
    from sim.report.critical_path import Share, Shares
    from sim.report.present.bottlenecks import Bottlenecks

    share = (Share(EVIL, 1, 1.0, 1),)
    render([Bottlenecks("decode", EVIL, Shares(1, share, share, share), ())])
    assert SHOWN in capsys.readouterr().out
