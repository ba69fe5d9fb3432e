"""What there is to choose from, single collectives and machines, schemas of files."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.options import Json, MachineSettings, about, completed, one_of, possible
from sim.errors import InputError
from sim.terminal import echo


def _kinds() -> Iterable[str]:
    from sim.cli.list_command import KINDS

    return KINDS


def _collectives() -> Iterable[str]:
    from sim.cli.list_command import listing

    return (name for name, _ in listing("collectives")["collectives"])


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="scenarios, topologies, models, suites, layouts, residuals, pipelines or collectives; default: all.",
            autocompletion=one_of(_kinds),
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List what there is to choose from, one line each."""
    from sim.cli.list_command import listing

    found = listing(kind)
    if as_json:
        echo(json.dumps({name: dict(rows) for name, rows in found.items()}))
        return
    room = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for name, rows in found.items():
        wide = max(len(row[0]) for row in rows)
        echo(name)
        for own, text in rows:
            echo(f"  {own:<{wide}}  {text}".rstrip()[:room])


def collective(
    name: Annotated[
        str,
        typer.Argument(
            help="all_gather, reduce_scatter, all_reduce, all_to_all, ...", autocompletion=one_of(_collectives)
        ),
    ],
    topology: Annotated[
        str, typer.Option(help="Machine: a shipped name or a file.", autocompletion=completed("topology"))
    ],
    axes: Annotated[str, typer.Option(help="Mesh axes of a group, such as xyz; default: all.")] = "",
    size: Annotated[str, typer.Option(help="Bytes, such as 64MiB.")] = "",
    minimum: Annotated[str, typer.Option("--min", help="Smallest size of a sweep.")] = "",
    maximum: Annotated[str, typer.Option("--max", help="Largest size of a sweep.")] = "",
    factor: Annotated[int, typer.Option(min=2, help="Step factor of a sweep.")] = 2,
    algorithm: Annotated[str, typer.Option(help="Default: the topology's; with NCCL what NCCL would choose.")] = "",
    chunks: Annotated[int, typer.Option(min=1, max=1024, help="Cut the data: so many collectives at once.")] = 1,
    groups: Annotated[
        str, typer.Option(help="Groups at once, such as 4x2: four of two chips, every fourth chip.")
    ] = "",
    consecutive: Annotated[bool, typer.Option("--consecutive", help="Groups of chips that follow each other.")] = False,
    matrix: Annotated[Path | None, typer.Option(help="Of all_to_all: CSV of bytes, a row per sender.")] = None,
    settings: MachineSettings = None,
    out: Annotated[Path, typer.Option(help="Folder of the figure of a sweep.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw busbw against size, of a sweep.")] = True,
) -> None:
    """Simulate one collective and print it as nccl-tests does, with the closed form and the bound beside it.

    Of a sweep of sizes the bus bandwidth is drawn too, with the published measurements of this machine. The size of
    all_gather, reduce_scatter, gather and scatter is the full array, of all_to_all one chip's buffer.

    --set overrides fields of the machine, such as link.latency='2 us', and says what is not as its file says:
    perturb.failed_links=[0:x+], perturb.slow_links, perturb.jitter and, of chips that enter late, perturb.stragglers.
    """
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.bench import collective as bench
    from sim.studies.bench import groups as grouped
    from sim.studies.bench import uneven

    cut = {"--axes": bool(axes), "--chunks": chunks > 1}
    sized = {"--size": bool(size), "--min": bool(minimum), "--max": bool(maximum)}
    if matrix:
        _refuse("--matrix", {"NAME": name != "all_to_all", "--groups": bool(groups), "--algorithm": bool(algorithm)})
        _refuse("--matrix", {**cut, **sized})
    elif groups:
        _refuse("--groups", cut)
    if consecutive and not groups:
        raise InputError("requires --groups", where="--consecutive", hint="such as --groups 4x2")
    wanted = [] if matrix else bench.sizes(size, minimum, maximum, factor)
    grouping = grouped.Grouping.of(groups, consecutive=consecutive) if groups else None
    with possible(load.place("topology", topology)):
        if matrix:
            rows = uneven.sweep(topology, uneven.read(matrix), settings or [])
        elif grouping:
            rows = grouped.sweep(
                name, topology, grouping, sizes=wanted, algorithm=algorithm or None, settings=settings or []
            )
        else:
            rows = bench.sweep(
                name,
                topology,
                axes=axes,
                sizes=wanted,
                algorithm=algorithm or None,
                settings=settings or [],
                chunks=chunks,
            )
    if as_json:
        echo(json.dumps([row.to_dict() for row in rows]))
    else:
        echo(bench.table(rows))
    if plots and len(rows) > 1:
        from sim.plots import busbw
        from sim.studies.validate.cases import published_times

        machine = load.topology_spec(topology, [each for each in settings or [] if not load.of_perturb(each)]).name
        points = published_times(machine, name, rows[0].group, algorithm or None)
        chosen = {"axes": axes, "algorithm": algorithm, "chunks": chunks if chunks > 1 else ""}
        chosen |= {"groups": groups, "consecutive": "yes" if consecutive else ""}
        options = [f"{option}={value}" for option, value in chosen.items() if value]
        all_options = [*options, *(settings or [])]
        said = f"with {', '.join(all_options)}" if all_options else ""
        path = out / f"{outputs.named(f'{machine}_{name}', all_options)}.png"
        with outputs.replacing_file(path) as fresh:
            busbw.draw(rows, machine, fresh, form=rows[0].form, measured=points, settings=said)
        echo(f"figure in {path}", err=True)  # the table alone is what a pipe gets


def _refuse(option: str, others: dict[str, bool]) -> None:
    """Raise InputError for an option, or a name of a collective, that is given beside one that does not allow it."""
    for other, given in others.items():
        if given and other == "NAME":
            raise InputError("must be all_to_all", where=f"NAME with {option}", hint="leave the option out")
        if given:
            raise InputError(f"is not supported with {option}", where=other, hint="leave one out")


def topology(
    name: Annotated[
        str, typer.Argument(help="Machine: a shipped name or a file.", autocompletion=completed("topology"))
    ],
    settings: MachineSettings = None,
    out: Annotated[Path, typer.Option(help="Folder of the drawing.")] = Path("out"),
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw it.")] = True,
) -> None:
    """Describe a machine: chips, links, diameter, average hops, bisection; save a drawing to OUT/NAME.png."""
    from sim import topology as machines
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.topology import describe

    spec, stack = load.machine(name, settings or [])
    with about(load.place("topology", name)):
        built = machines.build(spec, stack)
    facts = describe.facts(built)
    path = out / f"{outputs.named(built.name, settings or [])}.png"
    if plots:
        from sim.plots import topology as drawing

        with outputs.replacing_file(path) as fresh:
            drawing.draw(built, fresh)
    if as_json:
        echo(json.dumps(facts))
        return
    for label, value in describe.lines(facts):
        echo(f"{label:<22}{value}")
    if plots:
        echo(f"{'drawing':<22}{path}")


def schema(
    out: Annotated[Path, typer.Option(help="Folder of the schema files.")] = Path("out/schemas"),
) -> None:
    """Write the JSON Schema of every kind of file, for editors."""
    from sim.results import folder as outputs
    from sim.specs.load import schema as schemas

    with outputs.writable(out):
        for path in schemas.write(out):
            echo(str(path))
