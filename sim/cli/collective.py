"""`sim collective`: simulate one collective, and print it as nccl-tests does."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from sim.cli import exchange
from sim.cli.errors import within_limits
from sim.cli.options import Formats, Json, MachineSettings, Plugins, TopologyName, Width, figure_form, one_of
from sim.cli.progress import progress
from sim.errors import InputError
from sim.terminal import echo


def _collectives() -> Iterable[str]:
    from sim.cli.list_command import listing

    return (*(name for name, _ in listing("collectives")["collectives"]), *exchange.WAYS)


def collective(
    name: Annotated[
        str,
        typer.Argument(
            help="all_gather, reduce_scatter, all_reduce, all_to_all, dispatch, combine, ...",
            autocompletion=one_of(_collectives),
        ),
    ],
    topology: TopologyName,
    axes: Annotated[str, typer.Option(help="Mesh axes of a group, such as xyz or box,gpu; default: all.")] = "",
    size: Annotated[str, typer.Option(help="Bytes, such as 64MiB or 64M, both binary; MB is decimal.")] = "",
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
    tokens: exchange.Tokens = "",
    model: exchange.ModelName = "",
    kernel: exchange.ExchangeKernelName = "",
    scheme: exchange.SchemeName = "",
    dtype: exchange.RowFormat = "",
    load_shape: exchange.LoadName = "",
    settings: MachineSettings = None,
    out: Annotated[Path, typer.Option(help="Folder of the figure of a sweep.")] = Path("out"),
    plugins: Plugins = None,
    as_json: Json = False,
    plots: Annotated[bool, typer.Option("--plots/--no-plots", help="Draw busbw against size, of a sweep.")] = True,
    formats: Formats = "png",
    width: Width = "",
) -> None:
    """Simulate one collective and print it as nccl-tests does, with the closed form and the bound beside it.

    Of a sweep of sizes the bus bandwidth is drawn too, with the published measurements of this machine. The size of
    all_gather, reduce_scatter, gather and scatter is the full array, of all_to_all one chip's buffer.

    --set overrides fields of the machine, such as link.latency='2 us', and says what is not as its file says:
    perturb.failed_links=[0:x+], perturb.slow_links, perturb.jitter and, of chips that enter late, perturb.stragglers.
    --set mesh='{box: boxes, gpu: 8}' names axes of a switch or graph as a scenario does, for --axes gpu.

    dispatch and combine exchange the tokens of a mixture of experts between all chips, --tokens on each. --set then
    also takes fields of a scenario's model, workload and layout, such as layout.experts.replicas=32.
    """
    cut = {"--axes": bool(axes), "--chunks": chunks > 1}
    sized = {"--size": bool(size), "--min": bool(minimum), "--max": bool(maximum)}
    of_tokens = {"--model": model, "--kernel": kernel, "--scheme": scheme, "--dtype": dtype, "--load": load_shape}
    if name in exchange.WAYS:
        _refuse(name, {**cut, **sized, "--groups": bool(groups), "--matrix": bool(matrix)})
        numbers = exchange.parse_tokens(tokens, factor)
        named = exchange.settings_of(name, of_tokens)
        exchange.run(name, topology, numbers, [*named, *(settings or [])], algorithm, as_json)
        return
    _refuse(name, {"--tokens": bool(tokens), **{option: bool(text) for option, text in of_tokens.items()}})
    from sim.results import folder as outputs
    from sim.specs import load
    from sim.studies.bench import collective as bench
    from sim.studies.bench import groups as grouped
    from sim.studies.bench import uneven

    form = figure_form(formats, width)
    if matrix:
        _refuse("--matrix", {"NAME": name != "all_to_all", "--groups": bool(groups), "--algorithm": bool(algorithm)})
        _refuse("--matrix", {**cut, **sized})
    elif groups:
        _refuse("--groups", cut)
    if consecutive and not groups:
        raise InputError("requires --groups", where="--consecutive", hint="such as --groups 4x2")
    sizes = [] if matrix else bench.parse_sizes(size, minimum, maximum, factor)
    spec = bench.CollectiveSpec(name, tuple(filter(None, axes.split(","))), 0.0, algorithm or None, chunks)
    grouping = grouped.Grouping.of(groups, consecutive=consecutive) if groups else None
    with progress(f"simulating {name} on {topology}") as report, within_limits(load.place("topology", topology)):
        if matrix:
            rows = uneven.run_matrix_file(topology, matrix, settings or [])
        else:
            rows = grouped.run_sizes(topology, spec, sizes, settings or [], report, grouping)
    if as_json:
        echo(json.dumps([row.to_dict() for row in rows]))
    else:
        echo(bench.format_table(rows, bench.describe_sizes(size, minimum, maximum)))
    if plots and len(rows) > 1:
        from sim.plots import busbw
        from sim.results.figures import write_figure
        from sim.studies.validate.cases import published_times

        with progress("reading measurements"):
            machine = bench.load_machine(topology, settings or [])[0].name
            points = published_times(machine, name, rows[0].group, algorithm or None)
        chosen = {"axes": axes, "algorithm": algorithm, "chunks": chunks if chunks > 1 else ""}
        chosen |= {"groups": groups, "consecutive": "yes" if consecutive else ""}
        options = [f"{option}={value}" for option, value in chosen.items() if value]
        all_options = [*options, *(settings or [])]
        said = f"with {', '.join(all_options)}" if all_options else ""
        stem = out / outputs.unique_file_name(f"{machine}_{name}", all_options)
        with progress(f"drawing {stem}"):
            draw = partial(busbw.draw, rows, machine, measured=points, settings=said)
            written = write_figure(draw, stem, form)
        for path in written:
            echo(f"figure in {path}", err=True)  # the table alone is what a pipe gets


def _refuse(option: str, others: dict[str, bool]) -> None:
    """Raises InputError for an option, or a name of a collective, that is given beside one that excludes it."""
    for other, given in others.items():
        if given and other == "NAME":
            raise InputError("must be all_to_all", where=f"NAME with {option}", hint="leave the option out")
        if given:
            raise InputError(f"is not supported with {option}", where=other, hint="leave one out")
