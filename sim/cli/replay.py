"""`sim replay`: simulate Chakra execution traces on a machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sim.cli.errors import errors_in
from sim.cli.options import Json, MachineSettings, TopologyName
from sim.cli.progress import progress
from sim.terminal import echo


def replay(
    traces: Annotated[str, typer.Argument(help="Chakra traces PREFIX.0.et, PREFIX.1.et, ...: give PREFIX.")],
    topology: TopologyName,
    settings: MachineSettings = None,
    groups: Annotated[
        Path | None,
        typer.Option(
            "--comm-groups", help='Ranks of the communicator groups, JSON: {"name": [rank, ...]}; default: as traced.'
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Simulate Chakra execution traces, one per chip, on a machine; print where the time goes."""
    from sim import topology as machines
    from sim.export.chakra_replay import load as load_traces
    from sim.export.chakra_replay import read_groups, simulate_traces
    from sim.specs import load

    with progress(f"building {topology}"):
        machine = machines.build(*load.machine(topology, settings or []))
    ranks_of = None if groups is None else read_groups(groups, machine.chips)
    with progress(f"replaying {traces}"), errors_in(traces):
        result = simulate_traces(load_traces(Path(traces), machine, ranks_of), machine)
    if as_json:
        echo(json.dumps(result.to_dict()))
        return
    from sim.report.present import bottlenecks as tables

    tables.render([result.bottlenecks])
    for note in result.notes:
        echo(f"note: {note}")
