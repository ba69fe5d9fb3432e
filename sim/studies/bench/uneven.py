"""An all-to-all by itself whose messages a matrix gives, as the experts of a mixture receive tokens."""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt

from sim import units
from sim.closed_form.collectives import algbw
from sim.collectives import algorithm_of, uneven
from sim.collectives.emit import CollectiveCall, emit
from sim.errors import InputError
from sim.program import ProgramBuilder
from sim.program.perturb import route_around_failures
from sim.report.collective_result import CollectiveResult
from sim.specs import PerturbSpec
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import Settings
from sim.topology.graph import Topology
from sim.topology.lower_bound import bound_of_sets, single_chips

Matrix = npt.NDArray[np.float64]


def read(path: Path) -> Matrix:
    """Reads a CSV without header, `1024` or `1 KiB` each: [senders, receivers] bytes. Raises InputError."""
    where = f"--matrix {path}"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError("must be a CSV file that can be read", where=where, got=str(error)) from None
    for number, row in enumerate(rows, start=1):
        if len(row) != len(rows):
            rule = f"must have as many columns as rows, {len(rows)}"
            raise InputError(rule, where=f"{where}: row {number}", got=len(row), hint="a row per sender")
    cells = [[_bytes(text, f"{where}: row {i}") for text in row] for i, row in enumerate(rows, start=1)]
    return np.array(cells, dtype=np.float64)


def _bytes(text: str, where: str) -> float:
    try:
        value = float(text) if text.strip().replace(".", "", 1).isdecimal() else units.parse(text.strip(), "B")
    except InputError as error:
        raise error.within(where) from None
    if not 0 <= value <= bench.MAX_BYTES:
        raise InputError(f"must be from 0 B to {units.format_bytes(bench.MAX_BYTES)}", where=where, got=text)
    return value


def run_matrix_file(machine: str, path: Path, settings: Settings) -> list[CollectiveResult]:
    """Runs the all-to-all of a matrix file on a machine file: one row.

    Raises:
        InputError: unknown machine, or a matrix that does not fit it.
    """
    matrix = read(path)
    topology, perturb = bench.load_machine(machine, settings)
    return [run_matrix(topology, matrix, perturb)]


def run_matrix(topology: Topology, matrix: Matrix, perturb: PerturbSpec | None = None) -> CollectiveResult:
    """Runs the all-to-all of a matrix. Its size is the most that any chip sends or receives.

    Args:
        matrix: [chips, chips] bytes from each chip to each; those of the diagonal stay.

    Raises:
        InputError: another number of chips, nothing to send, or failed links that leave a message no way.
    """
    if matrix.shape != (topology.chips, topology.chips):
        rule = f"must have a row and a column per chip of {topology.name}, {topology.chips}"
        raise InputError(rule, where="--matrix", got=len(matrix))
    between = matrix * (1 - np.eye(topology.chips))
    size = float(max(between.sum(axis=0).max(), between.sum(axis=1).max()))
    if not size:
        raise InputError("must have bytes between different chips", where="--matrix", got="zeros")
    working, notes = route_around_failures(topology, perturb) if perturb else (topology, ())
    plan = uneven.all_to_all(working, between / size)
    bench.check_sends("all_to_all", len(plan))
    builder = ProgramBuilder(bench.resources(working))
    after = (bench.add_stragglers(builder, working, perturb, range(working.chips)),) if perturb else ()
    emit(builder, working, CollectiveCall(plan, size, "all_to_all"), after=after)
    times = bench.simulate_program_times_s(builder.build(), working, perturb)
    time = median(times)
    sizes = between[between > 0]
    shown = " to ".join(units.format_bytes(each) for each in (sizes.min(), sizes.max()))
    return CollectiveResult(
        collective="all_to_all",
        algorithm=algorithm_of(working, "all_to_all") if topology.has_lines else "one_shot",
        group=topology.chips,
        size_bytes=size,
        time_s=time,
        algbw=algbw(size, time),
        busbw=algbw(size, time),
        closed_form_s=None,
        bound_s=_bound(topology, between),
        notes=(
            f"{len(sizes)} messages of {shown}; size: the most that a chip sends or receives",
            _PLAIN,
            *notes,
            *bench.describe_seeds(times),
        ),
    )


_PLAIN = "messages use the latencies and bandwidths of the links; protocols of libraries are not modelled"


def _bound(topology: Topology, between: Matrix) -> float:
    """Returns the time of the busiest chip's bytes through all its links, and the least latency of a link, s."""
    busiest = bound_of_sets(topology, single_chips(topology), between.sum(axis=1), between.sum(axis=0))
    return busiest + min(link.latency_s for link in topology.links if link.src < topology.chips)
