"""Results are input like any other: whatever is done to a folder, every command that reads it ends with one line."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from support.commands import call, run
from support.files import write
from support.selection import each_once, release_if

SCENARIO = {
    "scenario.workload": {"phase": "generate", "batch": 4, "prompt": 8, "generate": 2, "weights": "bf16"},
    "model.layers": 24,  # most of which are not simulated, so that periods are read back
}
SWEEP = "sweep={workload.batch: [4, 8], engine.layers: [1, 2]}"


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """Folder with a scenario, its results in out/tiny with an explanation, and those of a sweep."""
    place = tmp_path_factory.mktemp("good")
    write(place, SCENARIO)
    assert run(place, "--critical-path", "--explain") == (0, "")
    assert sweep(place)[0] == 0
    return place


def sweep(place: Path) -> tuple[int, str]:
    return call("sweep", place / "scenario.yaml", "--out", place / "out", "--no-plots", "--set", SWEEP)


def rehashed(folder: Path) -> None:
    """Make the manifest say that the files are as they are, as somebody who means harm would."""
    path = folder / "manifest.json"
    data = json.loads(path.read_bytes())
    for name, entry in data["files"].items():
        if (folder / name).is_file():
            content = (folder / name).read_bytes()
            entry |= {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    data.pop("sha256")
    data["sha256"] = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(data))


def flip(path: Path, step: int) -> None:
    content = bytearray(path.read_bytes())
    for i in range(len(content) // 3, len(content), step):
        content[i] ^= 0x15
    path.write_bytes(content)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def change_json(path: Path, change: Callable[[object], object]) -> None:
    """Change every value in a JSON file that is no mapping and no list; text of another file becomes JSON."""

    def inside(data: object) -> object:
        if isinstance(data, dict):
            return {key: inside(value) for key, value in data.items()}
        return [inside(value) for value in data] if isinstance(data, list) else change(data)

    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        data = {"ready": [0.5]}
    path.write_text(json.dumps(inside(data)))


def without_keys(path: Path) -> None:
    """Every second key of the file's mappings removed."""

    def inside(data: object) -> object:
        if isinstance(data, dict):
            return {key: inside(value) for i, (key, value) in enumerate(data.items()) if i % 2}
        return [inside(value) for value in data] if isinstance(data, list) else data

    try:
        data = json.loads(path.read_bytes())
    except ValueError:
        data = []
    path.write_text(json.dumps(inside(data)))


def bomb(path: Path) -> None:
    """An archive of a few KiB, the columns of which are said to have 7 GiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("ready", "start", "free", "kept", "periods"):
            archive.writestr(f"{name}.npy", npy((7 * 2**27,)) + bytes(2**16))
    content = bytearray(path.read_bytes())
    size, found = struct.pack("<I", 2**32 - 2), content.find(b"PK\x01\x02")
    while found >= 0:  # the uncompressed size of each entry of the directory
        content[found + 24 : found + 28] = size
        found = content.find(b"PK\x01\x02", found + 4)
    path.write_bytes(content)


def npy(shape: tuple[int, ...]) -> bytes:
    """The head of an array of integers of that shape, without its values."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<i8", "fortran_order": False, "shape": shape})
    return file.getvalue()


def pickled(path: Path) -> None:
    np.savez(path.with_suffix(".npz"), ready=np.array([{}], dtype=object))
    if path.suffix != ".npz":
        path.with_suffix(".npz").rename(path)


def other_times(path: Path) -> None:
    """Columns that are not this program's: shorter, of floats, late, back in time."""
    columns = dict(np.load(path)) if path.suffix == ".npz" else {"ready": np.zeros(3)}
    if "start" in columns:
        columns |= {"start": columns["start"][::-1], "free": columns["free"] * 10**6}
    with path.open("wb") as file:
        np.savez(file, **columns)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "three bytes less": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "one bit": lambda path: flip(path, 10**9),
    "many bytes": lambda path: flip(path, 7),
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_text("name: tiny\n- [\x00"),
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "JSON list": lambda path: path.write_text("[1, [2]]"),
    "JSON number": lambda path: path.write_text("NaN"),
    "deep JSON": lambda path: path.write_text("[" * 10**5),
    "many digits": lambda path: path.write_text("1" * 10**5),
    "missing keys": without_keys,
    "numbers": lambda path: change_json(path, lambda value: 10**30),
    "texts": lambda path: change_json(path, lambda value: "\x1b[31m[red]"),
    "nulls": lambda path: change_json(path, lambda value: None),
    "lists": lambda path: change_json(path, lambda value: [value]),
    "infinite": lambda path: change_json(path, lambda value: float("inf") if isinstance(value, float) else value),
    "zip bomb": bomb,
    "pickle": pickled,
    "other times": other_times,
    "deleted": lambda path: path.unlink(),
    "a folder": as_folder,
}
FEW = ("truncated", "one bit", "no JSON", "missing keys", "texts", "infinite", "pickle", "deleted", "a folder")
"""Damages of each kind: to the bytes, the syntax, the keys, the values, the format, the file."""
FILES = ("manifest.json", "report.json", "explain.json", "trace_prefill.npz", "trace_decode.npz")
DAMAGED = [
    *(("manifest.json", kind) for kind in DAMAGES),
    *((name, kind) for name in FILES[1:] for kind in ("one bit", "missing keys", "empty", "deleted", "a folder")),
]
"""The manifest in every way. Of another file only its hash is looked at, whatever is in it."""
SWEEP_FILES = ("sweep.csv", "sweep.json", "sweep.sha256")
READERS: dict[str, Callable[[Path, Path], tuple[int, str]]] = {
    "plot": lambda place, other: call("plot", place / "out/tiny", "stages"),
    "page": lambda place, other: call("plot", place / "out/tiny"),
    "compare": lambda place, other: call("compare", place / "out/tiny", other / "out/tiny", "--no-plots"),
    "export": lambda place, other: call("export", place / "out/tiny", "perfetto"),
}


@pytest.fixture
def place(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "place")
    return tmp_path / "place"


def damage(place: Path, name: str, kind: str, hashed: bool) -> None:
    DAMAGES[kind](place / "out/tiny" / name)
    if hashed and name != "manifest.json":
        rehashed(place / "out/tiny")


@pytest.mark.parametrize(("name", "kind"), each_once(DAMAGED))
def test_a_damaged_file_is_one_line_that_names_it(good: Path, place: Path, name: str, kind: str):
    damage(place, name, kind, hashed=False)
    for command in ("plot", "compare", "export"):
        code, said = READERS[command](place, good)
        if name != "explain.json":
            missing = name == "manifest.json" and kind in ("deleted", "a folder")
            assert code == 2
            assert ("must hold the results of a run" if missing else name) in said
            assert said.endswith("run the scenario again") or missing
        assert code in (0, 2), said


@pytest.mark.parametrize(("name", "kind"), each_once(product(FILES[1:], DAMAGES)))
def test_a_damaged_file_with_the_right_hash_is_drawn_or_refused(good: Path, place: Path, name: str, kind: str):
    damage(place, name, kind, hashed=True)
    code, said = READERS["plot"](place, good)
    assert code in (0, 2), said


@pytest.mark.parametrize(("name", "kind"), each_once(DAMAGED, lambda name, kind: (name, kind if kind in FEW else "")))
def test_no_damage_keeps_a_scenario_from_being_run_again(place: Path, name: str, kind: str):
    folder = place / "out/tiny"
    before = (folder / "trace_decode.npz").read_bytes()
    damage(place, name, kind, hashed=False)
    broken = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    code, said = run(place)
    if (name, kind) == ("manifest.json", "deleted"):  # no folder of results any more
        assert code == 2
        assert "must be empty or hold the results of a run" in said
        return
    assert code == 0
    if name == "manifest.json":
        aside = folder.with_name("tiny.damaged")
        assert said.startswith(f"{folder}: moved the previous results to {aside}: manifest.json ")
        assert {path.name: path.read_bytes() for path in aside.iterdir() if path.is_file()} == broken
    assert (folder / "trace_decode.npz").read_bytes() == before
    assert call("plot", folder, "stages")[0] == 0
    assert run(place) == (0, "")


@pytest.mark.parametrize("kind", release_if(DAMAGES, *(kind for kind in DAMAGES if kind not in FEW)))
def test_an_explanation_with_the_right_hash_keeps_nothing_from_running(place: Path, kind: str):
    damage(place, "explain.json", kind, hashed=True)
    assert run(place)[0] == 0


@pytest.mark.parametrize("kind", ["one bit", "deleted", "missing keys", "a folder"])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_never_shows_on_the_page(good: Path, place: Path, name: str, kind: str):
    damage(place, name, kind, hashed=False)
    code, said = READERS["page"](place, good)
    assert code == 2
    assert str(place / "out/tiny") in said


@pytest.mark.parametrize(
    ("name", "kind"), each_once(product(SWEEP_FILES, DAMAGES), lambda name, kind: (name, kind if kind in FEW else ""))
)
def test_a_sweep_goes_on_over_any_damage_to_the_rows_that_were_undamaged(good: Path, place: Path, name: str, kind: str):
    (path,) = (place / "out").rglob("sweep.csv")
    whole = path.read_bytes()
    path.write_bytes(b"".join(whole.splitlines(keepends=True)[:4]))  # as if interrupted
    DAMAGES[kind](path.with_name(name))
    code, said = sweep(place)
    assert code == 0 or (code == 2 and kind == "a folder"), said
    if code == 0:
        assert path.read_bytes() == whole


def test_a_digit_of_a_sweep_that_was_changed_is_found_and_simulated_again(place: Path):
    (path,) = (place / "out").rglob("sweep.csv")
    whole = path.read_text()
    head, *rows = whole.splitlines(keepends=True)
    figures = rows[1].split(",")
    figures[5] = "1" + figures[5]
    path.write_text("".join([head, rows[0], ",".join(figures), rows[2]]))
    code, said = sweep(place)
    assert (code, path.read_text()) == (0, whole)
    assert "resuming: 2 of 4 points are done" in said


def test_results_of_another_version_are_named(place: Path):
    path = place / "out/tiny/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"version": "0.0.1"}))
    code, said = call("plot", place / "out/tiny")
    assert code == 2
    assert "manifest.json: must be results of version" in said
    assert "got '0.0.1'; run the scenario again" in said


def test_a_column_is_not_unpacked_beyond_what_its_values_take(place: Path):
    """An archive within its size that says 7 GiB of itself is refused before a byte of a column is read."""
    path = place / "out/tiny/trace_decode.npz"
    bomb(path)
    rehashed(place / "out/tiny")
    code, said = call("plot", place / "out/tiny", "stages")
    assert code == 2
    assert 'trace_decode.npz: must be what `sim run` wrote, got "4294967294 bytes of ' in said
