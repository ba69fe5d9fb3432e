"""The folder of a run: its name, its files, and reading it back."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim.errors import InputError
from sim.results.analysis import Analysis

if TYPE_CHECKING:
    from sim.results.figures import FigureForm
    from sim.simulate.result import Pass, Run
    from sim.specs import Scenario

EXPORTS = ("kineto", "perfetto", "chakra")
"""Formats of traces for other tools."""

_LONGEST_NAME = 200


def folder_name(scenario: Scenario, settings: Sequence[str]) -> str:
    """Returns `name`, or `name,key=value` for a run with settings, whose results must not replace the plain run's."""
    return unique_file_name(scenario.name, settings)


def unique_file_name(name: str, settings: Sequence[str]) -> str:
    """Returns a file name that no other settings have: `name,key=value`; long ones end in a hash of the rest."""
    full_name = ",".join([name, *settings])
    text = file_name(full_name)
    if len(text) <= _LONGEST_NAME:
        return text
    return f"{text[: _LONGEST_NAME - 9]}-{hashlib.sha256(full_name.encode()).hexdigest()[:8]}"


def file_name(text: str) -> str:
    """Returns `text` without characters that are unsafe in file names."""
    return re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", text)


def write(
    run: Run,
    folder: Path,
    *,
    figure_form: FigureForm | None,
    chips: Sequence[int] | None = None,
    analysis: Analysis | None = None,
) -> list[str]:
    """Writes report.json, manifest.json, trace.npz, trace.json and the figures. The same scenario gives the same bytes.

    Args:
        figure_form: None: no figures.
        chips: chips in trace.json; by default those that differ from each other, as far as it has room.
        analysis: explanations are written to explain.json and drawn as waterfalls.

    Returns:
        Messages for the user: what the files leave out.
    """
    from sim.results import saved

    analysis = analysis or Analysis()
    messages: list[str] = []

    def write_data() -> None:
        messages.extend(_write_traces(run, folder, chips))
        _json(folder / "report.json", run.report.to_dict() | analysis.critical_path())
        if (explained := analysis.explain()) is not None:
            _json(folder / "explain.json", explained)

    if figure_form:
        from sim.results import figures

        figures.draw(run, folder, figure_form, analysis, meanwhile=write_data)
    else:
        write_data()
    saved.write_manifest(saved.origin_of(run), folder)
    return messages


def _write_traces(run: Run, folder: Path, chips: Sequence[int] | None) -> list[str]:
    """Writes trace.npz and trace.json of each phase; returns messages on what these leave out."""
    from sim.export import chrome_trace
    from sim.program import trace_file

    said = []
    for part in run.passes:
        phase = run.suffix(part)
        trace_file.write(part.part, part.periods, folder / f"trace{phase}.npz")
        chosen, most_tasks = (_first_chips(part), chrome_trace.MOST_TASKS) if chips is None else (chips, None)
        trace, topology = part.of_chips(sorted(chosen))
        path = folder / f"trace{phase}.json"
        if left_out := chrome_trace.write(trace, topology, path, chosen, part.memory_of, most_tasks=most_tasks):
            said.append(f"{path.name} has {left_out}; all of chips with --trace-chip")
    return said


def _first_chips(part: Pass) -> list[int]:
    """Returns the critical chip and those that differ from it, or one that does alike, for arrows between them."""
    from sim.export.chrome_trace import CHIPS

    chosen = list(dict.fromkeys((part.report.critical_chip, *part.chip_roles)))[:CHIPS]
    others = (chip for chip in range(min(2, part.topology.total_chips)) if chip not in chosen)
    return chosen if len(chosen) > 1 else [*chosen, *others][:2]


def read(folder: Path) -> Run:
    """Reads the run that was written to `folder`, without simulating it again.

    Raises:
        InputError: no folder of a run, or of another version of this program, or a file of it is damaged.
    """
    from sim.results import saved

    return saved.restore_results(saved.open_folder(folder))


def export(
    run: Run, folder: Path, form: str, chips: Sequence[int] | None = None, *, messages: bool = False
) -> list[Path]:
    """Writes traces of `run` for other tools into `folder`; returns their paths.

    Args:
        form: one of EXPORTS.
        chips: those to write, default all; Chakra traces are always of all.
        messages: write every message of a collective into Chakra traces, instead of a node per collective.

    Raises:
        InputError: no such format, or a program that the format cannot say.
    """
    from sim.export import astra_sim, chakra, chrome_trace, perfetto
    from sim.export.chakra_collectives import collective_nodes
    from sim.export.chakra_messages import message_nodes

    if form not in EXPORTS:
        raise InputError("must be a trace format", where="FORMAT", got=form, hint=f"there are {', '.join(EXPORTS)}")
    paths = []
    for part in run.passes:
        suffix = run.suffix(part)
        trace, topology = part.whole()
        chosen = list(chips or range(topology.chips))
        if form == "kineto":
            for chip in chosen:
                paths.append(folder / f"kineto{suffix}" / f"rank{chip}.json")
                chrome_trace.write(trace, topology, paths[-1], [chip], part.memory_of, host_calls=True)
        elif form == "perfetto":
            paths.append(folder / f"trace{suffix}.perfetto-trace")
            perfetto.write(trace, topology, paths[-1], chosen)
        else:
            target, dtype = folder / f"chakra{suffix}", run.scenario.workload.activations
            if messages:
                nodes = message_nodes(trace.program, topology.chips, dtype)
                paths += chakra.write(nodes, target, run.scenario.name)
            else:
                traces = collective_nodes(trace, topology, dtype)
                paths += chakra.write(traces.ranks, target, run.scenario.name)
                paths += astra_sim.write(trace.program, topology, traces.groups, target, run.scenario.name)
    return paths


def check_chips(scenario: Scenario, chips: Sequence[int], where: str) -> None:
    """Raises InputError, at the option `where`, for a chip that the scenario does not use."""
    if not chips:
        return
    from sim.lowering.placement import mesh_of

    count = mesh_of(scenario).total_chips
    for chip in chips:
        if chip >= count:
            raise InputError(f"the machine has chips 0 to {count - 1}", where=where, got=chip)


def _json(path: Path, data: dict[str, Any] | list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
