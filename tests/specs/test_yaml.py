"""YAML: the core schema of version 1.2, limits that hold before anything walks the values, and damaged files."""

from __future__ import annotations

import json
import math
import os
import random
import re
import threading
from pathlib import Path

import pytest

from sim.errors import InputError
from sim.specs import load
from sim.specs.load.references import data_root
from sim.specs.load.yaml_core import DEEPEST, MOST_VALUES
from sim.specs.load.yaml_text import MOST_BYTES, parse, read


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("null", None),
        ("~", None),
        ("true", True),
        ("FALSE", False),
        ("yes", "yes"),
        ("off", "off"),
        ("0100", 100),
        ("-7", -7),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", "0b11"),
        ("1_000", "1_000"),
        ("1:0:0:0", "1:0:0:0"),
        ("190:20:30.15", "190:20:30.15"),
        ("2002-12-14", "2002-12-14"),
        ("1e9", 1e9),
        ("-.5E-3", -0.5e-3),
        ("12.", 12.0),
        ("-.inf", -math.inf),
        ("'12'", "12"),
        ('"true"', "true"),
        ("|\n  12\n", "12\n"),
    ],
)
def test_plain_text_means_what_the_core_schema_says(text: str, value: object):
    found = parse(f"key: {text}", "here")["key"]
    assert (type(found), found) == (type(value), value)


def test_json_is_read_as_json():
    data = {"a": [1, 2.5, -3e-07, 1e300, True, False, None, "", "\x1b[31m", "ü/\\\"'"], "b": {"c": {}, "d": []}}
    for indent in (None, 1, "\t"):
        assert parse(json.dumps(data, indent=indent), "here") == data


def test_a_setting_is_read_by_the_same_rules():
    assert load.scenario("llama3_70b_tp8_standard", ["workload.batch=010"]).workload.batch == 10
    with pytest.raises(InputError, match=r"^--set workload.batch: must be a whole number, got '1:0'$"):
        load.scenario("llama3_70b_tp8_standard", ["workload.batch=1:0"])


@pytest.mark.parametrize(
    "value", ["!!bool x", "!!int ''", "!!str 1", "!!python/object:os.system x", "! x", "!own [1]", "!!map {a: 1}"]
)
def test_a_tag_is_refused_where_it_stands(value: str):
    with pytest.raises(InputError, match=r"^here:2:4: must be valid YAML: tags such as '!.*' are not supported"):
        parse(f"a: 1\nb: {value}", "here")


# --- aliases and merge keys ------------------------------------------------------------------------------------------


def test_an_alias_is_a_copy():
    data = parse("a: &a {x: [1]}\nb: *a\n", "here")
    data["a"]["x"].append(2)
    assert data["b"] == {"x": [1]}


def test_own_keys_win_over_merged_ones_and_the_first_of_several_mappings():
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\nd: {<<: *a, '<<': text}\n"
    data = parse(text, "here")
    assert data["c"] == {"x": 1, "y": 1, "z": 3}
    assert data["d"] == {"x": 1, "y": 1, "<<": "text"}


@pytest.mark.parametrize(
    "line",
    [
        "&b{n} [*b{m}, *b{m}, *b{m}, *b{m}]",
        "&b{n} {{a: *b{m}, b: *b{m}, c: *b{m}}}",
        "&b{n} {{<<: *b{m}, k{n}: *b{m}}}",
    ],
)
def test_aliases_that_multiply_are_refused_before_they_are_expanded(line: str):
    lines = ["x0: &b0 {a: 1}", *(f"x{n}: " + line.format(n=n, m=n - 1) for n in range(1, 40))]
    with pytest.raises(InputError, match="a file holds at most 100,000 values, each alias counted in full"):
        parse("\n".join(lines), "here")


def test_values_up_to_the_limit_are_read():
    assert len(parse("[" + "1," * (MOST_VALUES - 1) + "]", "here")) == MOST_VALUES - 1
    with pytest.raises(InputError, match="at most 100,000 values"):
        parse("[" + "1," * MOST_VALUES + "]", "here")


@pytest.mark.parametrize("opening", ["[", "{a: ", "- ", "? "])
def test_depth_is_bounded(opening: str):
    for depth in (DEEPEST + 1, 100_000):
        with pytest.raises(InputError, match="must be valid YAML: "):
            parse(opening * depth, "here")


@pytest.mark.parametrize("number", ["9" * 5_000, "0x" + "f" * 5_000, "0o" + "7" * 5_000, "0." + "1" * 5_000])
def test_a_number_of_thousands_of_digits_is_refused(number: str):
    with pytest.raises(InputError, match="a number must have at most 1,000 digits"):
        parse(f"a: {number}", "here")


# --- files -----------------------------------------------------------------------------------------------------------


def test_a_file_of_many_bytes_is_refused(tmp_path: Path):
    path = tmp_path / "big.yaml"
    path.write_bytes(b"#" * (MOST_BYTES + 1))
    with pytest.raises(InputError, match="a file must have at most 4 MiB"):
        read(path)
    with pytest.raises(InputError, match="a file must have at most 4 MiB"):
        load.scenario("/dev/zero")


def test_a_named_pipe_is_read_once(tmp_path: Path):
    pipe, text = tmp_path / "pipe", load.path("scenario", "palm540b_decode_ws2d").read_bytes()
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(text,))
    writer.start()
    loaded = [load.scenario(str(pipe)), load.scenario(str(pipe), ["workload.batch=8"])]
    writer.join()
    assert loaded[0] == load.scenario("palm540b_decode_ws2d")
    assert loaded[1].workload.batch == 8


# --- damaged files ---------------------------------------------------------------------------------------------------

_NASTY = (
    *("", "null", "true", "-1", "0", "1e999", ".nan", "-.inf", "0x" + "f" * 900, "9" * 999, "1e-320", "1e21 B/s"),
    *(
        "[]",
        "{}",
        "[[]]",
        "{a: {}}",
        "{value: 1}",
        "*a",
        "&a",
        "<<",
        "!!int 1",
        "'",
        '"\\x00"',
        '"\\e[2J"',
        "../../..",
        "/",
    ),
    *("x" * 5_000, "\x07", "\ud7ff", "\u202e", "=1+1", "$", "%", "@", "`", "- - - -", "? :", "#", "---", "\t"),
)


def _mutant(text: str, rng: random.Random) -> str:
    """The text with one to three of its lines, values or characters damaged."""
    for _ in range(rng.randint(1, 3)):
        lines = text.splitlines()
        at, other = rng.randrange(len(lines)), rng.randrange(len(lines))
        key, colon, _ = lines[at].partition(":")
        match rng.randrange(8):
            case 0:
                del lines[at]
            case 1:
                lines.insert(other, lines[at])
            case 2:
                lines[at], lines[other] = lines[other], lines[at]
            case 3 | 4:
                lines[at] = f"{key}{colon} {rng.choice(_NASTY)}"
            case 5:
                lines[at] = lines[at].replace(key.strip(), rng.choice(_NASTY), 1)
            case 6:
                lines[at] = " " * rng.randrange(6) + lines[at].lstrip()
            case _:
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + rng.choice(_NASTY) + lines[at][place + rng.randrange(3) :]
        text = "\n".join(lines) or "x"
    return text


_SHIPPED = sorted(
    path.relative_to(data_root())
    for folder in ("scenarios", "topologies")
    for path in (data_root() / folder).rglob("*.yaml")
)


@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_is_read_or_refused_in_one_line(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every shipped file; one that others name is loaded as that kind too."""
    monkeypatch.chdir(tmp_path)
    messages = []
    for place in _SHIPPED:
        rng = random.Random(f"{seed} {place}")
        shipped = (data_root() / place).read_text(encoding="utf-8")
        (kind,) = re.findall(r"^# .*/schemas/(.*)\.json$", shipped, flags=re.M)
        text = _mutant(shipped, rng)
        Path("mutant.yaml").write_text(text, encoding="utf-8")
        try:
            _load(kind)
        except InputError as error:
            messages.append(str(error))
    assert not any("\n" in message or len(message) > 1_100 for message in messages)
    assert len(messages) > len(_SHIPPED) / 4  # most are damaged where it matters


def _load(kind: str) -> object:
    """`mutant.yaml` as a file of this kind, within a machine where it is a part of one."""
    match kind:
        case "scenario":
            return load.scenario("mutant.yaml")
        case "model":
            return load.model("mutant.yaml")
        case "suite":
            return load.suite("mutant.yaml")
        case "stack":
            return load.machine("dgx_h100", ["stack=mutant.yaml"])
        case "topology":
            return load.topology_spec("mutant.yaml")
        case _:
            return load.topology_spec("dgx_h100", [f"{kind}=mutant.yaml"])
