"""Whatever may take seconds, building and reading machines included, is inside a block that shows progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.commands import call
from support.files import write

from sim import topology as machines
from sim.cli.progress import Report


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("topology", ["topology", "topology.yaml", "--no-plots"]),
        ("collective", ["collective", "all_gather", "--topology", "topology.yaml", "--size", "1M", "--no-plots"]),
        ("run", ["run", "scenario.yaml", "--no-plots", "--quiet", "--chip", "1"]),
        ("compare", ["compare", "scenario.yaml", "--what-if", "link.latency=0.5x", "--no-plots"]),
        (
            "together",
            ["run", "scenario.yaml", "scenario.yaml", "--together", "--on", "0..3", "--on", "0..3", "--no-plots"],
        ),
    ],
)
def test_a_machine_is_built_where_progress_is_shown(
    module: str, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write(tmp_path)
    monkeypatch.chdir(tmp_path)
    open_blocks: list[str] = []
    built: list[bool] = []

    @contextmanager
    def progress(what: str, *, is_animated: bool = True) -> Iterator[Report]:
        open_blocks.append(what)
        assert len(open_blocks) == 1, "a terminal shows one at a time"
        yield lambda done, total: None
        open_blocks.pop()

    build = machines.build

    def noted(*arguments):
        built.append(bool(open_blocks))
        return build(*arguments)

    monkeypatch.setattr(f"sim.cli.{module}.progress", progress)
    monkeypatch.setattr(machines, "build", noted)
    assert call(*arguments)[0] == 0
    assert built
    assert all(built)
