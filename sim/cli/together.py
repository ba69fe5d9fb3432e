"""`sim run A B --together`: several jobs at once on one machine."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from sim.cli.errors import errors_in
from sim.cli.options import completed
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo
from sim.units import format_bytes

if TYPE_CHECKING:
    from sim.results.figures import FigureForm
    from sim.simulate.together import Job
    from sim.specs import TopologySpec

JobChips = Annotated[
    list[str] | None,
    typer.Option(
        "--on", help="With --together: chips of the next job, 0..3 or 0,2 or x=0..1. Default: the next that are free."
    ),
]
JobPasses = Annotated[
    list[int] | None,
    typer.Option("--passes", min=1, help="With --together: passes of the next job, one after the other. Default: 1."),
]
JobMachine = Annotated[
    str,
    typer.Option(
        "--machine",
        help="With --together: the machine of all jobs. Default: that of the scenarios.",
        autocompletion=completed("topology"),
    ),
]


class Placing(Struct, frozen=True):
    """Options that place jobs on a machine, in the order of the jobs."""

    chips: Sequence[str]
    passes: Sequence[int]
    machine: str


class Shown(Struct, frozen=True):
    """Options on where results go and what is printed."""

    out: Path
    name: str
    figure_form: FigureForm | None
    """None: no figures."""
    as_json: bool
    quiet: bool


def run_jobs(
    files: Sequence[str], settings: Sequence[str], placing: Placing, shown: Shown, unsupported: Mapping[str, bool]
) -> bool:
    """Simulates scenarios together, prints their report and writes it; returns True if they fit the chips' memory.

    Args:
        unsupported: options that do not go together with --together, True where given.
    """
    from sim.report.present.together import render
    from sim.results import folder as outputs
    from sim.results import saved, scratch
    from sim.results import together as results
    from sim.simulate.together import name_jobs, run_together
    from sim.specs import load

    for option, given in unsupported.items():
        if given:
            raise InputError("is not supported with --together", where=option, hint="leave one out")
    machine = load.topology_spec(placing.machine) if placing.machine else None
    with progress("placing jobs"):
        jobs = _load_jobs(files, settings, placing, machine)
    name = shown.name or "+".join(name_jobs(jobs))
    folder = shown.out / outputs.unique_file_name(name, () if shown.name else settings)
    sources = [load.source(file) for file in files]
    source = None if None in sources else " + ".join(map(str, sources))
    origin = saved.Origin(source, list(settings), results.resolve_jobs(jobs, placing.machine))
    saved.check_replaceable(folder, origin, is_named=bool(shown.name))
    with scratch.replacing(folder) as fresh:
        with progress(f"simulating {name}") as report, errors_in("--together"):
            run = run_together(jobs, machine, name, report)
        with progress(f"writing {folder}"):
            results.write(run, fresh, shown.figure_form, origin)
            messages = saved.displace_results(folder, fresh)
    for line in messages:
        echo(f"{folder}: {line}", err=True)
    memory = run.report.memory
    if not memory.fits:
        needed, there = format_bytes(memory.used_bytes), format_bytes(memory.capacity_bytes)
        echo(
            f"warning: {name}: exceeds memory: a chip needs {needed} of {there}; times assume unlimited memory",
            err=True,
        )
    if shown.as_json:
        echo(json.dumps(run.report.to_dict()))
    elif not shown.quiet:
        render(run.report)
        echo(f"results in {folder}/")
    return memory.fits


def _load_jobs(
    files: Sequence[str], settings: Sequence[str], placing: Placing, machine: TopologySpec | None
) -> list[Job]:
    """Loads the scenarios and places each. Raises InputError."""
    from sim import topology
    from sim.simulate.together import Job, parse_chips
    from sim.specs import load
    from sim.studies.sweep.points import refuse_sweep

    if len(files) < 2:
        raise InputError("requires two or more scenarios", where="--together", got=len(files))
    for option, given in {"--on": placing.chips, "--passes": placing.passes}.items():
        if given and len(given) != len(files):
            raise InputError("must be given once for each scenario", where=option, got=f"{len(given)} times")
    jobs = []
    for i, file in enumerate(files):
        scenario = load.scenario(file, settings)
        with errors_in(load.place("scenario", file)):
            refuse_sweep(scenario, settings)
        chips = None
        if placing.chips:
            chips = parse_chips(placing.chips[i], topology.build(machine or scenario.topology, scenario.stack))
        jobs.append(Job(scenario, chips, placing.passes[i] if placing.passes else 1))
    return jobs
