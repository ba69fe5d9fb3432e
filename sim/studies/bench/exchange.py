"""One dispatch or combine of a mixture of experts by itself, with its logical bandwidth, busiest link and bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from math import ceil
from statistics import median

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from msgspec.structs import replace

from sim import topology as machines
from sim import units
from sim.collectives import schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.engine import simulate
from sim.errors import InputError
from sim.layouts.sharding import ITEM_BYTES
from sim.lowering.exchange import TokenExchange, Way
from sim.lowering.routing import Routing, route
from sim.program import Program, ProgramBuilder
from sim.program.perturb import route_around_failures
from sim.program.trace import Trace
from sim.report.exchange_result import ExchangeResult
from sim.simulate.consistency import check
from sim.specs import MEDIA, PerturbSpec, StackSpec, load
from sim.specs.exchange import ExchangeInputs
from sim.specs.experts import ExpertsLayout, ExpertsSpec, Kernel, RoutingSpec
from sim.specs.held import find_excess, held_by_layout
from sim.specs.unread import describe_unread, find_unread_by_exchange
from sim.studies.bench import collective as bench
from sim.topology.folding import NotFoldableError, folded
from sim.topology.graph import Topology
from sim.topology.lower_bound import bound_of_sets, lower_bound, single_chips
from sim.topology.working_links import WorkingLinks

Floats = npt.NDArray[np.float64]


class ExchangeCase(Struct, frozen=True):
    """A dispatch or a combine between all chips of a machine."""

    way: Way
    tokens: int
    """Tokens of a chip."""
    d_model: int
    """Numbers of a token's row."""
    dtype: str
    """Their number format."""
    experts: ExpertsSpec
    routing: RoutingSpec
    layout: ExpertsLayout
    algorithm: str | None = None
    """All-to-all on a torus, on all axes. Default: the machine's, on the axes as the stack goes along them."""

    @classmethod
    def of(cls, inputs: ExchangeInputs, way: Way, tokens: int) -> ExchangeCase:
        """Returns the exchange of a model's experts. Raises InputError for a model without experts."""
        model, workload = inputs.model, inputs.workload
        if model.experts is None:
            rule, hint = "must be a model with experts", "such as deepseek_v3"
            raise InputError(rule, where="model", got=model.name, hint=hint)
        dtype = workload.dispatch if way == "dispatch" else workload.combine
        return cls(way, tokens, model.d_model, dtype, model.experts, workload.routing, inputs.layout.experts)

    @property
    def kernel(self) -> Kernel:
        """Kernels whose times the exchange has."""
        return self.layout.kernel or "normal"

    @property
    def row_bytes(self) -> int:
        """Bytes of a token's row, with the scales of its blocks."""
        return ceil(self.d_model * ITEM_BYTES[self.dtype])


def run_tokens(
    machine: str,
    way: Way,
    tokens: Sequence[int],
    settings: Sequence[str],
    algorithm: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[ExchangeResult]:
    """Runs an exchange on a machine file, for each number of tokens of a chip.

    Args:
        settings: `key=value` overrides of the machine and its stack, of `perturb`, and of the model, workload and
            layout of the exchange (`sim.specs.exchange`).
        progress: called with (numbers done, numbers in all).

    Raises:
        InputError: unknown names, a model without experts, or as in `run_exchange`.
    """
    inputs, of_machine = load.exchange(settings)
    perturb = load.perturb([each for each in of_machine if load.is_of("perturb", each)])
    spec, stack = load.machine(machine, [each for each in of_machine if not load.is_of("perturb", each)])
    excess = find_excess(spec.chip, held_by_layout(inputs.layout.experts))
    if excess is not None:
        raise InputError(excess.rule, where=".".join(excess.field), got=excess.got, hint=excess.hint)
    unread = describe_unread(inputs, [find_unread_by_exchange(inputs, way, stack)])
    topology, rows = machines.build(spec, stack), []
    for done, number in enumerate(tokens):
        progress(done, len(tokens))
        case = replace(ExchangeCase.of(inputs, way, number), algorithm=algorithm)
        result = run_exchange(topology, stack, case, perturb)
        rows.append(replace(result, notes=(*result.notes, *unread)))
    return rows


def format_table(rows: Sequence[ExchangeResult]) -> str:
    """Formats rows as a table, with the notes on them above it."""
    first = rows[0]
    each = {"per_expert": "experts", "per_rank": "chips", "per_box": "boxes", "all_gather": "chips"}[first.scheme]
    notes = dict.fromkeys(note for row in rows for note in row.notes)
    lines = [
        f"# {first.way}, kernel {first.kernel}, {first.scheme}, {first.chips} chips, rows of {first.row_bytes:,} B to "
        f"{first.destinations:.3g} {each} of a token on average",
        "# bandwidth: rows of a chip to all their destinations, its own included, over the time",
        *(f"# {note}" for note in notes),
        f"# {'tokens':>8} {'time':>12} {'bandwidth':>10} {'bound':>12} {'balance':>8} {'busy':>7}  busiest link",
        f"# {'of a chip':>8} {'(us)':>11} {'(GB/s)':>10} {'(us)':>12} {'':>8} {'(%)':>7}",
    ]
    for row in rows:
        lines.append(
            f"  {row.tokens:>8} {row.time_s * 1e6:12.3f} {row.bandwidth / 1e9:10.3f} {row.bound_s * 1e6:12.3f} "
            f"{row.balance:8.3f} {100 * row.busiest_link_share:7.1f}  "
            f"{row.busiest_link}, {units.format_bytes(row.busiest_link_bytes)}"
        )
    return "\n".join(lines)


def run_exchange(
    topology: Topology, stack: StackSpec, case: ExchangeCase, perturb: PerturbSpec | None = None
) -> ExchangeResult:
    """Simulates an exchange, on one representative chip if all chips are alike.

    Args:
        perturb: deviations from the machine's file; of several seeds the time is their median.

    Raises:
        InputError: experts that the chips do not divide, one chip, or a perturbation of something that is not there.
    """
    if topology.chips == 1:
        raise InputError("must have at least two chips", where=topology.name, got=1)
    working, notes = route_around_failures(topology, perturb) if perturb else (topology, ())
    between, routing = _routed(working, stack, case)
    times, trace, machine = _times(working, stack, case, perturb)
    rows = between.destinations(routing)
    logical = float(rows.sum()) / len(rows) * case.row_bytes
    time_s = median(times)
    link, carried, busy = _busiest_link(trace, machine)
    if routing.even and topology.has_lines:
        notes = (*notes, *_ON_TORUS)
    return ExchangeResult(
        way=case.way,
        kernel=case.kernel,
        scheme=between.scheme,
        chips=topology.chips,
        tokens=case.tokens,
        row_bytes=case.row_bytes,
        destinations=float(rows.sum()) / len(rows) / case.tokens,
        time_s=time_s,
        bandwidth=logical / time_s,
        busiest_link=link,
        busiest_link_bytes=carried,
        busiest_link_share=busy,
        balance=routing.balance,
        bound_s=bound_s(working, between, routing, case),
        notes=(*notes, *bench.describe_seeds(times)),
    )


_ON_TORUS = ("equal rows of all chips are the machine's all-to-all, with the launch of its collectives",)


def program(topology: Topology, stack: StackSpec, case: ExchangeCase, perturb: PerturbSpec | None = None) -> Program:
    """Returns the tasks of an exchange on a machine, or on a folded one.

    Raises:
        NotFoldableError: the chips of a folded machine are not alike.
        InputError: as in `run_exchange`.
    """
    between, routing = _routed(topology, stack, case)
    if topology.is_folded and not routing.even:
        raise NotFoldableError("chips have experts with different loads")
    builder = ProgramBuilder(bench.resources(topology))
    after = (bench.add_stragglers(builder, topology, perturb, range(topology.chips)),) if perturb else ()
    for part in between.parts(case.way, routing, case.tokens, case.row_bytes):
        plan = part.plan
        if plan is None:
            plan = schedule(topology, part.kind, part.axes, case.algorithm, part.size_bytes)
        bench.check_sends(case.way, len(plan))
        after = (emit(builder, topology, CollectiveCall(plan, part.size_bytes, case.way, case.dtype), after).end,)
    return builder.build()


def _routed(topology: Topology, stack: StackSpec, case: ExchangeCase) -> tuple[TokenExchange, Routing]:
    axes = tuple(axis.name for axis in topology.mesh)
    if case.algorithm is not None:
        stack = stack.model_copy(update={"collective_axes": "at_once"})
    between = TokenExchange(topology, stack, case.layout, case.kernel, axes, axes, case.algorithm)
    return between, route(case.experts, case.routing, case.layout, between.split(case.tokens))


def _times(
    topology: Topology, stack: StackSpec, case: ExchangeCase, perturb: PerturbSpec | None
) -> tuple[list[float], Trace, Topology]:
    """Returns the time for every seed, s, and the trace of the exchange by itself, on the machine that it names."""
    machine, tasks = topology, None
    with suppress(NotFoldableError):
        machine = folded(topology)
        tasks = program(machine, stack, case)
    if tasks is None:
        machine, tasks = topology, program(topology, stack, case)
    trace = simulate(tasks, "auto")
    check(trace, machine)
    if perturb is None:
        return [trace.makespan_ps / units.PS_PER_S], trace, machine
    late = program(topology, stack, case, perturb)
    return bench.simulate_program_times_s(late, topology, perturb), trace, machine


def _busiest_link(trace: Trace, machine: Topology) -> tuple[str, float, float]:
    """Returns (name of the link that is busy for longest, its bytes, the share of the time for which it is busy)."""
    link = trace.program.resource.astype(np.int64) - machine.chips
    sent = link >= 0
    busy_ps = np.bincount(link[sent], trace.program.busy_ps[sent], len(machine.links))
    carried = np.bincount(link[sent], trace.program.bytes[sent], len(machine.links))
    most = int(busy_ps.argmax())
    return machine.links[most].name, float(carried[most]), float(busy_ps[most] / trace.makespan_ps)


def bound_s(topology: Topology, between: TokenExchange, routing: Routing, case: ExchangeCase) -> float:
    """Returns the time that no exchange of these rows by this scheme can beat, s.

    The busiest chip sends and receives its bytes over all its links, the busiest box over those of the network. Equal
    rows on a torus have the bound of an all-to-all, and gathered tokens that of an all-gather.
    """
    parts = between.parts(case.way, routing, case.tokens, case.row_bytes)
    if parts[0].plan is None:
        return lower_bound(topology, parts[0].kind, between.tokens, parts[0].size_bytes)
    chips, held = np.arange(topology.chips), between.holder_of()
    rows = between.rows(routing)[:, held] * (1 - np.eye(topology.chips)) * case.row_bytes
    box = np.array(between.split(case.tokens).box or (0,) * topology.chips)[held]
    to_box = np.stack([rows[:, box == each].sum(axis=1) for each in range(int(box.max()) + 1)], axis=1)
    inside = to_box[chips, box]
    if between.scheme == "per_box" and routing.boxed is not None:
        to_box = routing.boxed * case.row_bytes
    to_box[chips, box] = 0
    of_chips = inside + to_box.sum(axis=1), rows.sum(axis=0)
    of_boxes = np.bincount(box, to_box.sum(axis=1)).astype(np.float64), to_box.sum(axis=0)
    if case.way == "combine":
        of_chips, of_boxes = of_chips[::-1], of_boxes[::-1]
    busiest = max(
        bound_of_sets(topology, single_chips(topology), *of_chips),
        bound_of_sets(topology, _boxes(topology, box), *of_boxes),
    )
    return busiest + min(link.latency_s for link in topology.links if link.src < topology.chips)


def _boxes(topology: Topology, box: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Returns [nodes] the number of each node's box, given that of each chip; -1 for nodes of the network."""
    links = WorkingLinks.of(topology)
    joined = links.components(links.medium < MEDIA.index("net"))
    labels = np.full(len(joined), -1, dtype=np.int32)
    for chip, number in enumerate(box.tolist()):
        labels[joined == joined[chip]] = number
    return labels
