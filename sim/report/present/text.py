"""Tables and lines of a report, the one source of the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from msgspec import Struct

from sim.report.closed_form import PER_OPERATION
from sim.report.report import ModelFigures, Report
from sim.units import format_bytes, format_change, format_count, format_list, format_percent, format_seconds

if TYPE_CHECKING:
    from sim.report.experts import ExpertsReport
    from sim.report.memory import Memory
    from sim.report.padding import Padding
    from sim.report.pipeline import Passes, PipelineReport
    from sim.report.proposals import ProposalsReport
    from sim.report.spread import Spread
    from sim.report.transfer import TransferReport
    from sim.report.waiting import Waiting


class Table(Struct, frozen=True):
    """Rows of text; the first column is text, the others are numbers."""

    columns: tuple[str, ...]
    groups: tuple[tuple[tuple[str, ...], ...], ...]
    """Rows, in groups that are drawn apart."""
    warning: str = ""
    """Warning below the table."""


class Line(Struct, frozen=True):
    """A sentence or two."""

    text: str
    warns: bool = False


Block = list[Table | Line]
"""Tables and lines printed without an empty line between them."""


def overall_blocks(report: Report) -> Iterator[Block]:
    """Yields blocks about all steps or requests: latency and its references, padding, pipeline, repeated runs.

    Before all, what it takes to fit the chips' memory, where that is too small.
    """
    if not report.memory.fits:
        yield list(_too_large(report.memory))
    yield [_comparison(report), *_inexact(report), *_source(report)]
    if report.padding:
        yield [_padding(report.padding)]
    if report.pipeline:
        yield [_requests(report.pipeline)]
    if report.spread:
        yield [_spread(report.spread)]


def step_blocks(report: Report) -> Iterator[Block]:
    """Yields blocks about one step of a phase, or all requests of a pipeline: stages, operations, collectives,
    links."""
    if report.pipeline and report.pipeline.passes:
        yield list(_passes(report.pipeline.passes))
    yield [_ops(report), *_bounds(report), *_each(report), _links(report)]
    if report.experts:
        yield list(_experts(report.experts))
    if report.proposals:
        yield [_proposals(report.proposals)]
    if report.transfer:
        yield list(_transfer(report.transfer))
    if report.waiting:
        yield list(_waiting(report.waiting))


def phase_title(report: Report, name: str) -> str:
    """Returns the title of one of two phases: `decode: 1.3 s, MFU 2.1%`."""
    return f"{name}: {format_seconds(report.simulated.latency_s)}, MFU {format_percent(report.simulated.mfu)}"


def memory_blocks(report: Report) -> Iterator[Block]:
    """Yields blocks about memory use and the memory pool."""
    yield list(_memory(report))


def _memory(report: Report) -> Iterator[Line]:
    if report.phases:
        for name, phase_title in zip(("prefill", "decode"), report.phases, strict=True):
            yield _held(f"memory per chip in {name}", phase_title.memory)
    else:
        yield _held("memory per chip", report.memory)
    yield Line("memory does not count activations, workspaces and buffers of libraries")
    if report.model:
        yield _model(report.model)
    if pool := report.pool:
        layers = f"{len(pool.remote_layers)} layers of {format_bytes(pool.layer_bytes)}"
        yield Line(
            f"memory pool: {layers} live on the {pool.to} ({', '.join(map(str, pool.remote_layers))}), "
            f"one copy {format_seconds(pool.fetch_s)}; stalls "
            f"{format_seconds(pool.stall_s)} ({pool.slower:+.1%}), closed form "
            f"{format_seconds(pool.closed_form_stall_s)}; {pool.layers_that_fit} layers fit, "
            f"{pool.layers_that_fit_without} without it"
        )


def _held(what: str, usage: Memory) -> Line:
    gathered = f" + gathered weights {format_bytes(usage.gather_buffer_bytes)}" if usage.gather_buffer_bytes else ""
    held = f"weights {format_bytes(usage.weights_bytes)} + KV cache {format_bytes(usage.kv_cache_bytes)}{gathered}"
    line = f"{what}: {held} = {format_bytes(usage.used_bytes)} of {format_bytes(usage.capacity_bytes)}"
    room = "" if usage.longest_context is None else f"; room for {usage.longest_context:,} tokens per sequence"
    return Line(line + (room if usage.fits else ": does not fit"), warns=not usage.fits)


def _too_large(memory: Memory) -> Iterator[Line]:
    """Yields the excess over the memory, its consequence for the figures, and changes to try."""
    excess = format_bytes(memory.excess_bytes)
    yield Line(f"exceeds memory by {excess} per chip; times assume unlimited memory", warns=True)
    if memory.remedies:
        *some, last = memory.remedies
        yield Line(f"try {', '.join(some)}{' or ' if some else ''}{last}")


def _comparison(report: Report) -> Table:
    """Returns the latency: simulated, closed forms, published."""
    rows: list[tuple[str, float, float | None]] = [("simulated", report.simulated.latency_s, None)]
    if report.closed_form:
        form = report.closed_form
        rows.append((form.name, form.latency_s, report.difference))
        rows.append((PER_OPERATION, form.detailed_latency_s, report.detailed_difference))
    for name, time_s in report.plugin_forms.items():
        rows.append((f"closed form, {name}", time_s, report.simulated.latency_s / time_s - 1))
    if report.published:
        rows.append(("published", report.published.value, report.published.error))
    outside = report.published and abs(report.published.error) > report.published.tolerance
    shown = [(name, format_seconds(value), _difference(relative)) for name, value, relative in rows]
    waiting_s = _waiting_s(report)
    if waiting_s:
        share = f"{waiting_s / report.simulated.latency_s:.1%} of simulated"
        shown.insert(1, ("waiting for late chips, mean of chips", format_seconds(waiting_s), share))
    return Table(
        (report.latency_of, "value", "simulated vs. this"),
        (tuple(shown),),
        f"outside the {report.published.tolerance:.0%} the scenario allows" if report.published and outside else "",
    )


def _waiting_s(report: Report) -> float:
    """Returns the time of all steps for which chips wait in collectives for a late peer, mean of the chips; 0 where all
    chips do the same, and of a pipeline, whose requests overlap."""
    parts = report.phases or (report,)
    if report.pipeline or any(part.waiting is None for part in parts):
        return 0.0
    steps = [part.simulated.latency_s / part.simulated.step_s for part in parts]
    return sum(part.waiting.waiting_s * count for part, count in zip(parts, steps, strict=True) if part.waiting)


def _inexact(report: Report) -> Iterator[Line]:
    """Yields the reasons why the detailed closed form is not exact."""
    form = report.closed_form
    if form and not form.is_exact:
        yield Line(f"the closed form per operation is not exact: it {format_list(form.inexact)}")


def _source(report: Report) -> Iterator[Line]:
    if report.published:
        yield Line(f"published: {report.published.source}")


def _difference(relative: float | None) -> str:
    return "" if relative is None else f"{relative:+.1%}".replace("-0.0%", "+0.0%")


def _padding(padding: Padding) -> Table:
    """Returns the time of each op with and without padding."""
    share = padding.real_rows / padding.padded_rows
    ops = [
        (op.op, format_seconds(op.padded_s), format_seconds(op.packed_s), format_change(op.saved_s))
        for op in padding.ops
    ]
    both = (format_seconds(padding.padded_latency_s), format_seconds(padding.packed_latency_s))
    return Table(
        (f"{padding.real_rows:,} of {padding.padded_rows:,} rows ({share:.0%})", "padded", "packed", "saved"),
        (tuple(ops), (("latency", *both, f"{padding.saved:+.1%}"),)),
    )


def _spread(spread: Spread) -> Line:
    """Returns the spread of repeated runs."""
    lowest, lower, upper, highest = (
        format_seconds(time_s)
        for time_s in (spread.lowest_s, spread.lower_quartile_s, spread.upper_quartile_s, spread.highest_s)
    )
    return Line(
        f"{spread.runs} runs with jitter: median latency {format_seconds(spread.median_s)}, half of them from {lower} "
        f"to {upper}, all from {lowest} to {highest}"
    )


def _waiting(waiting: Waiting) -> Iterator[Table | Line]:
    """Yields the time in collectives before and after the last chip has entered."""
    ops = tuple((op.op, format_seconds(op.waiting_s), format_seconds(op.transferring_s)) for op in waiting.ops)
    both = ("all", format_seconds(waiting.waiting_s), format_seconds(waiting.transferring_s))
    yield Table(("in collectives, mean of all chips", "waiting for a late peer", "transferring"), (ops, (both,)))
    yield Line(
        f"chip {waiting.least_chip} waits least, {format_seconds(waiting.least_s)}, "
        f"chip {waiting.most_chip} most, {format_seconds(waiting.most_s)}"
    )


def _experts(experts: ExpertsReport) -> Iterator[Line]:
    """Yields the rows of experts, what the fullest was expected to have, and the exchange of tokens."""
    balance = (
        f"most {experts.rows_most:,.0f}, on chip {experts.busiest_chip}: balance (mean / most) {experts.balance:.1%}"
    )
    yield Line(
        f"experts: {experts.rows_mean:,.0f} rows per chip in a layer"
        + (", the same on all" if experts.is_even else f"; {balance}")
        + f"; {experts.experts_hit:.1f} of {format_count(experts.experts_held, 'expert')} per chip receive tokens"
    )
    expected, fullest = experts.expected_fullest_rows, f"{experts.fullest_expert_rows:,.0f}"
    without = f", which {experts.expected_leaves_out}" if experts.expected_leaves_out else ""
    if expected is not None and experts.is_drawn:
        yield Line(f"rows of the fullest expert: {fullest}; closed form: {expected:,.0f}{without}")
    elif expected is not None:
        drawn = f"if tokens choose at random, the fullest has {expected:,.0f} by closed form"
        yield Line(f"rows of every expert: {fullest}, uniform load; {drawn}")
    for each in experts.exchanges:
        busiest = f"; chip {each.most_chip} {each.most_direction} most, {format_bytes(each.most_bytes)}"
        link = f"; link {each.busiest_link} is busy longest, {format_seconds(each.busiest_link_s)} in the step"
        beyond = f", {format_bytes(each.beyond_bytes)} to other boxes" if each.beyond_bytes else ""
        yield Line(
            f"{each.way}: {format_bytes(each.mean_bytes)} per chip in a layer{beyond}"
            f"{'' if experts.is_even else busiest}"
            f"; {each.exposed_share:.1%} exposed{link if each.busiest_link else ''}"
        )
    if not experts.is_even:
        least, mean, most = map(
            format_seconds, (experts.compute_least_s, experts.compute_mean_s, experts.compute_most_s)
        )
        yield Line(f"compute of a chip in the step: {least} to {most}, mean {mean}")


def _proposals(proposals: ProposalsReport) -> Line:
    """Returns what it takes to propose tokens."""
    total, active = (f"{count / 1e9:.4g} billion" for count in (proposals.parameters, proposals.active_parameters))
    tokens, time = format_count(proposals.tokens, "token"), format_seconds(proposals.time_s)
    return Line(
        f"proposals: {tokens} per sequence by multi-token prediction, {time} of the step ({proposals.share:.1%}); its "
        f"module has {total} parameters, of which a token uses {active}"
    )


def _transfer(transfer: TransferReport) -> Iterator[Line]:
    """Yields the bytes of the cache on its way to the chips that decode, its time and what is exposed."""
    size, most = format_bytes(transfer.bytes), format_bytes(transfer.most_bytes)
    senders, receivers = format_count(transfer.senders, "chip"), format_count(transfer.receivers, "chip")
    yield Line(
        f"KV cache: {size} from {senders} to {receivers}, at most {most} from one; {format_seconds(transfer.time_s)} "
        "from the first message to the last; exposed, from the last compute to the last arrival: "
        f"{format_seconds(transfer.exposed_s)}"
    )
    yield Line(
        f"link {transfer.busiest_link} is busy longest with it, {format_seconds(transfer.busiest_link_s)}: at least as "
        "much would be exposed if it were sent after the pass; what the transfer takes of memory bandwidth is left out"
    )


def _model(model: ModelFigures) -> Line:
    """Returns the size of a model and of its cache."""
    billions = f"{model.parameters / 1e9:.4g} billion parameters"
    if model.active_parameters != model.parameters:
        billions += f"; a token uses {model.active_parameters / 1e9:.4g} billion"
    cached = format_bytes(model.kv_cache_bytes_per_token)
    return Line(f"model: {billions}; KV cache {cached} per token")


def _requests(pipeline: PipelineReport) -> Line:
    """Returns the rate of requests and their latency."""
    return Line(
        f"{pipeline.schedule} pipeline: {format_count(pipeline.requests, 'request')}, "
        f"{pipeline.in_flight} under way at most; {pipeline.requests_per_s:,.2f} requests/s, "
        f"one every {format_seconds(pipeline.interval_s)}; mean latency {format_seconds(pipeline.latency_mean_s)}"
    )


def _passes(passes: Passes) -> Iterator[Table | Line]:
    """Yields one forward pass of every request: latencies, stages and the algebra beside them."""
    one = "decode step" if passes.phase == "decode" else passes.phase
    warm_up = f" after {passes.warm_up} that fill the pipeline" if passes.warm_up else ""
    parts = f", {passes.microbatches} micro-batches each" if passes.microbatches > 1 else ""
    yield Line(
        f"latency of a {one}: mean {format_seconds(passes.latency_mean_s)}, "
        f"median {format_seconds(passes.latency_median_s)}, "
        f"95% within {format_seconds(passes.latency_p95_s)}, longest {format_seconds(passes.latency_max_s)}"
    )
    form, count = passes.closed_form, format_count(passes.count - passes.warm_up, one)
    yield Line(
        f"{count}{warm_up}{parts}: {format_seconds(passes.total_s)}, one every {format_seconds(passes.interval_s)}; "
        f"closed form, sends free and all requests there at once, {format_seconds(form.total)} "
        f"({_difference(passes.total_difference)}), one every {format_seconds(form.interval)}"
    )
    rows = []
    for i, stage in enumerate(passes.stages):
        times_s = (stage.pass_s, stage.busy_s, stage.wait_s, stage.fill_s, stage.drain_s)
        chips = f"{stage.chips[0]}-{stage.chips[-1]}" if len(stage.chips) > 1 else str(stage.chips[0])
        times = map(format_seconds, times_s)
        rows.append((str(i), str(stage.layers), chips, *times, f"{stage.bubble:.1%}"))
    columns = ("stage", "layers", "chips", "per batch", "busy", "wait", "fill", "drain", "bubble")
    yield Table(columns, (tuple(rows),))


def _ops(report: Report) -> Table:
    """Returns the time per op and its sums."""
    simulated = report.simulated
    rows = []
    for op in report.ops:
        collective = op.kind == "collective"
        costs = op.exposed_s if collective else op.time_s
        exposed = format_seconds(op.exposed_s) if collective else ""
        times = (format_seconds(op.time_s), exposed, f"{costs / report.chip_s:.1%}")
        rows.append((op.op, f"{op.count:,}", *times, format_bytes(op.bytes)))
    exposed_s = simulated.exposed_communication_s
    sums = [
        ("compute", simulated.compute_s, "", simulated.compute_s),
        ("communication", simulated.communication_s, format_seconds(exposed_s), exposed_s),
        *((name, time_s, "", time_s) for name, time_s in report.waits_s.items() if time_s),
        ("idle", simulated.idle_s, "", simulated.idle_s),
    ]
    totals = tuple(
        (name, "", format_seconds(time_s), exposed, f"{costs / report.chip_s:.1%}", "")
        for name, time_s, exposed, costs in sums
    )
    title = f"{report.span} on chip {report.critical_chip}"
    return Table((title, "count", "time", "exposed", "share", "bytes"), (tuple(rows), totals))


def _bounds(report: Report) -> Iterator[Line]:
    """Yields the memory-bound and the compute-bound operations, by the longer of the two times of their costs."""
    for bound in ("memory", "compute"):
        names = [op.op for op in report.ops if op.bound == bound]
        if names:
            yield Line(f"{bound}-bound: {', '.join(names)}")


def _each(report: Report) -> Iterator[Line]:
    """Yields the exposed time of one all-reduce of each kind."""
    sums = [f"{op.op}: {format_seconds(op.exposed_each_s)}" for op in report.ops if op.op.startswith("all_reduce")]
    if sums:
        yield Line(f"exposed time of a single all-reduce: {', '.join(sums)}")
        yield Line("what all-reduces read and write in the chips' memory is left out")


def _links(report: Report) -> Line:
    """Returns the busiest links."""
    links = report.links
    if not links.busiest:
        return Line("links: nothing was sent")
    more = f" and {links.tied - len(links.busiest):,} more" if links.tied > len(links.busiest) else ""
    return Line(
        f"busiest links: {', '.join(links.busiest)}{more}, {links.utilisation:.1%} busy with "
        f"{format_bytes(links.bytes)} in {report.span}; mean over all links {links.mean_utilisation:.1%}"
    )
