"""The command line called from a test, and what it has written."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from sim.cli import build_app
from sim.errors import InputError


def call(*arguments: object) -> tuple[int, str]:
    """Exit code and what is said on standard error: bad input is one line, anything else unforeseen fails the test."""
    try:
        done = CliRunner().invoke(build_app(()), [str(each) for each in arguments], catch_exceptions=False)
    except InputError as error:
        said = str(error)
    else:
        return done.exit_code, done.stderr
    assert "\n" not in said
    return 2, said


def run(place: Path, *options: str) -> tuple[int, str]:
    return call("run", place / "scenario.yaml", "--out", place / "out", "--no-plots", "--quiet", *options)


def tree(folder: Path) -> dict[str, bytes]:
    """Relative path and content of every file, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
