"""The results of every shipped scenario: writes them to a folder, and compares two such folders figure by figure.

A change that must change no figure compares equal; one that may gives the from-to lists of CHANGELOG:

    python tests/support/shipped_reports.py write /tmp/before
    python tests/support/shipped_reports.py compare /tmp/before /tmp/after
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
Figures = dict[str, Any]
"""Values by the path of their keys, such as `simulated.step_s`, or the choices of a row and a column of a table."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    write_parser = commands.add_parser("write", help="run every shipped scenario and keep its report or table")
    write_parser.add_argument("folder", type=Path)
    write_parser.add_argument("names", nargs="*", help="only scenarios whose name contains one of these")
    compare_parser = commands.add_parser("compare", help="print every figure that differs; exit code 1 if any does")
    compare_parser.add_argument("before", type=Path)
    compare_parser.add_argument("after", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "write":
        write(arguments.folder, arguments.names)
        return
    moved = list(differences(arguments.before, arguments.after))
    print("\n".join(moved) or "equal to the byte")
    sys.exit(bool(moved))


def write(folder: Path, names: list[str]) -> None:
    """Writes `NAME.json` for a run's report and `NAME.csv` for a sweep's table; from the checkout's `sim`."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted((ROOT / "scenarios").glob("*.yaml")):
        if names and not any(name in path.stem for name in names):
            continue
        command = "sweep" if "\nsweep:" in path.read_text(encoding="utf-8") else "run"
        with tempfile.TemporaryDirectory() as scratch:
            arguments = [command, str(path), "--no-plots", "--out", scratch]
            subprocess.run([sys.executable, "-m", "sim", *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            (result,) = Path(scratch).rglob("sweep.csv" if command == "sweep" else "report.json")
            (folder / path.stem).with_suffix(result.suffix).write_bytes(result.read_bytes())
        print(path.stem, flush=True)


def differences(before: Path, after: Path) -> Iterator[str]:
    """Yields `scenario: figure: from -> to` for every figure that differs, and a line for every missing file."""
    for name in sorted({path.name for folder in (before, after) for path in folder.glob("*.*")}):
        old, new = before / name, after / name
        if not (old.exists() and new.exists()):
            yield f"{old.stem}: only in {before if old.exists() else after}"
        elif old.read_bytes() != new.read_bytes():
            yield from _moved(old.stem, figures(old), figures(new))


def _moved(name: str, old: Figures, new: Figures) -> Iterator[str]:
    keys = [key for key in dict.fromkeys([*old, *new]) if (key in old) != (key in new) or old.get(key) != new.get(key)]
    for key in keys:
        yield f"{name}: {key}: {_shown(old, key)} -> {_shown(new, key)}{_change(old.get(key), new.get(key))}"
    if not keys:
        yield f"{name}: the same figures in other bytes"


def _shown(values: Figures, key: str) -> str:
    return json.dumps(values[key], ensure_ascii=False) if key in values else "nothing"


def _change(old: Any, new: Any) -> str:
    try:
        return f" ({float(new) / float(old) - 1:+.2%})"
    except (TypeError, ValueError, ZeroDivisionError):
        return ""


def figures(path: Path) -> Figures:
    if path.suffix == ".json":
        return dict(_flat(json.loads(path.read_text(encoding="utf-8"))))
    with path.open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    axes = head.index("chips")  # the first column that is not a choice of the sweep
    return {
        f"{', '.join(row[:axes])}: {column}": cell
        for row in rows
        for column, cell in zip(head[axes:], row[axes:], strict=True)
    }


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


if __name__ == "__main__":
    main()
