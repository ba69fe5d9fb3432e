"""A report for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim.report.padding import Padding
from sim.report.pipeline import PipelineReport
from sim.report.report import Report
from sim.report.spread import Spread
from sim.report.waiting import Waiting
from sim.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def render(report: Report, console: Console | None = None, engine: tuple[int, float] | None = None) -> None:
    """Print the report on `console` (default: standard output).

    Args:
        engine: tasks simulated in all, and the wall-clock time that took, s.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    simulated = report.simulated
    layers = f"{report.layers_simulated} of {report.layers}" if report.layers_simulated < report.layers else "all"
    console.print(f"[bold]{report.scenario}[/] on {report.machine}, {report.chips} chips, {layers} layers")
    first = f"TTFT {format_seconds(simulated.ttft_s)}  " if report.phases and simulated.ttft_s else ""
    step = f"{'TPOT' if report.phases else 'step'} {format_seconds(simulated.tpot_s or simulated.step_s)}"
    console.print(
        f"latency [bold]{format_seconds(simulated.latency_s)}[/]  {first}{step}  "
        f"{simulated.tokens_per_s:,.0f} tokens/s  MFU {simulated.mfu:.1%}"
    )
    console.print()
    console.print(_comparison(report))
    if report.padding:
        console.print()
        console.print(_padding(report.padding))
    if report.pipeline:
        console.print()
        _pipeline(report.pipeline, console)
    if report.spread:
        console.print()
        console.print(_spread(report.spread))
    for name, phase in zip(("prefill", "decode"), report.phases, strict=False):
        console.print()
        console.print(f"[bold]{name}[/]: {format_seconds(phase.simulated.latency_s)}, MFU {phase.simulated.mfu:.1%}")
        console.print(_ops(phase))
        console.print(_each(phase))
        console.print(_links(phase))
        if phase.waiting:
            _waiting(phase.waiting, console)
    if not report.phases:
        console.print()
        console.print(_ops(report))
        console.print(_each(report))
        console.print(_links(report))
        if report.waiting:
            _waiting(report.waiting, console)
    console.print()
    console.print(_memory(report))
    for note in report.notes:
        console.print(f"note: {note}")
    if engine:
        tasks, wall_s = engine
        rate = f"{tasks / wall_s:,.0f} tasks/s" if wall_s else ""
        console.print(f"[dim]engine: {tasks:,} tasks in {format_seconds(wall_s)}, {rate}[/]")
        for shortcut in report.shortcuts:
            console.print(f"[dim]engine: {shortcut}[/]")


def _table(*columns: str) -> Table:
    """A table whose first column is text and whose others are numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _comparison(report: Report) -> Table:
    """Latency: simulated, closed forms, published."""
    table = _table("latency, all steps", "value", "simulated is")
    rows: list[tuple[str, float, float | None]] = [("simulated", report.simulated.latency_s, None)]
    if report.closed_form:
        form = report.closed_form
        rows.append((form.name, form.latency_s, report.difference))
        rows.append((form.per_axis_name, form.per_axis_latency_s, report.per_axis_difference))
    if report.published:
        rows.append(("published", report.published.value, report.published.error))
    for name, value, difference in rows:
        table.add_row(name, format_seconds(value), "" if difference is None else f"{difference:+.1%}")
    if report.published and abs(report.published.error) > report.published.tolerance:
        table.caption = f"outside the {report.published.tolerance:.0%} the scenario allows"
    return table


def _padding(padding: Padding) -> Table:
    """What each op takes with and without padding."""
    share = padding.real_rows / padding.padded_rows
    table = _table(f"{padding.real_rows:,} of {padding.padded_rows:,} rows ({share:.0%})", "padded", "packed", "saved")
    for op in padding.ops:
        table.add_row(op.op, *(format_seconds(t) for t in (op.padded_s, op.packed_s)), f"{1e6 * op.saved_s:+,.1f} us")
    table.add_section()
    both = (padding.padded_latency_s, padding.packed_latency_s)
    table.add_row("latency", *(format_seconds(t) for t in both), f"{padding.saved:+.1%}")
    return table


def _spread(spread: Spread) -> str:
    """One line: what repeated runs took."""
    lowest, lower, upper, highest = (
        format_seconds(time_s)
        for time_s in (spread.lowest_s, spread.lower_quartile_s, spread.upper_quartile_s, spread.highest_s)
    )
    return (
        f"{spread.runs} runs with jitter: median latency {format_seconds(spread.median_s)}, half of them from {lower} "
        f"to {upper}, all from {lowest} to {highest}"
    )


def _waiting(waiting: Waiting, console: Console) -> None:
    """Collectives before and after the last chip has entered."""
    table = _table("in collectives, mean of all chips", "waiting for a late peer", "transferring")
    for op in waiting.ops:
        table.add_row(op.op, format_seconds(op.waiting_s), format_seconds(op.transferring_s))
    table.add_section()
    table.add_row("all", format_seconds(waiting.waiting_s), format_seconds(waiting.transferring_s))
    console.print()
    console.print(table)
    console.print(
        f"chip {waiting.least_chip} waits least, {format_seconds(waiting.least_s)}, "
        f"chip {waiting.most_chip} most, {format_seconds(waiting.most_s)}"
    )


def _pipeline(pipeline: PipelineReport, console: Console) -> None:
    """Requests, stages and the algebra beside them."""
    parts = f" of {pipeline.microbatches} micro-batches" if pipeline.microbatches > 1 else ""
    console.print(
        f"{pipeline.schedule} pipeline: {pipeline.requests} requests{parts}, {pipeline.in_flight} under way at most; "
        f"{pipeline.requests_per_s:,.2f} requests/s, one every {format_seconds(pipeline.interval_s)}"
    )
    console.print(
        f"latency of a request: median {format_seconds(pipeline.latency_median_s)}, "
        f"95 % within {format_seconds(pipeline.latency_p95_s)}, longest {format_seconds(pipeline.latency_max_s)}"
    )
    form = pipeline.closed_form
    console.print(
        f"all requests {format_seconds(pipeline.total_s)}; closed form, sends free, {format_seconds(form.total)} "
        f"({pipeline.total_difference:+.1%}), one every {format_seconds(form.interval)}"
    )
    table = _table("stage", "layers", "chips", "per batch", "busy", "fill", "drain", "bubble")
    for i, stage in enumerate(pipeline.stages):
        times = (format_seconds(t) for t in (stage.pass_s, stage.busy_s, stage.fill_s, stage.drain_s))
        chips = f"{stage.chips[0]}-{stage.chips[-1]}" if len(stage.chips) > 1 else str(stage.chips[0])
        table.add_row(str(i), str(stage.layers), chips, *times, f"{stage.bubble:.1%}")
    console.print(table)


def _ops(report: Report) -> Table:
    """Time per op and its sums."""
    simulated = report.simulated
    step_s = simulated.compute_s + simulated.exposed_communication_s + simulated.idle_s
    table = _table(f"one step on chip {report.critical_chip}", "count", "time", "exposed", "of step", "bytes")
    for op in report.ops:
        exposed = format_seconds(op.exposed_s) if op.kind == "collective" else ""
        costs = op.exposed_s if op.kind == "collective" else op.time_s
        table.add_row(
            op.op,
            f"{op.count:,}",
            format_seconds(op.time_s),
            exposed,
            f"{costs / step_s:.1%}",
            format_bytes(op.bytes),
        )
    table.add_section()
    exposed_s = simulated.exposed_communication_s
    sums = (
        ("compute", simulated.compute_s, "", simulated.compute_s),
        ("communication", simulated.communication_s, format_seconds(exposed_s), exposed_s),
        ("idle", simulated.idle_s, "", simulated.idle_s),
    )
    for name, time_s, exposed, costs in sums:
        table.add_row(name, "", format_seconds(time_s), exposed, f"{costs / step_s:.1%}", "")
    return table


def _each(report: Report) -> str:
    """One line: exposed time of one all-reduce of each kind; empty where there is none."""
    sums = [op for op in report.ops if op.op.startswith("all_reduce")]
    if not sums:
        return ""
    return "exposed of one " + ", ".join(f"{op.op}: {format_seconds(op.exposed_each_s)}" for op in sums)


def _memory(report: Report) -> str:
    """One line: what is used of what, and by how much it does not fit."""
    memory = report.memory
    gathered = f" + gathered weights {format_bytes(memory.gather_buffer_bytes)}" if memory.gather_buffer_bytes else ""
    line = (
        f"memory per chip: weights {format_bytes(memory.weights_bytes)} + "
        f"KV cache {format_bytes(memory.kv_cache_bytes)}{gathered} = "
        f"{format_bytes(memory.used_bytes)} of {format_bytes(memory.capacity_bytes)}"
    )
    if pool := report.pool:
        layers = f"{len(pool.remote_layers)} layers of {format_bytes(pool.layer_bytes)}"
        line += (
            f"\nmemory pool: {layers} live on the {pool.to} ({', '.join(map(str, pool.remote_layers))}), "
            f"one copy {format_seconds(pool.fetch_s)}; stalls "
            f"{format_seconds(pool.stall_s)} ({pool.slower:+.1%}), closed form "
            f"{format_seconds(pool.closed_form_stall_s)}; {pool.layers_that_fit} layers fit, "
            f"{pool.layers_that_fit_without} without it"
        )
    if memory.fits:
        return line
    return f"{line}: [bold red]does not fit, {memory.excess_bytes / 2**30:.2f} GiB too much[/]"


def _links(report: Report) -> str:
    """One line: the busiest links."""
    links = report.links
    if not links.busiest:
        return "links: nothing was sent"
    more = f" and {links.tied - len(links.busiest)} more" if links.tied > len(links.busiest) else ""
    return (
        f"busiest links: {', '.join(links.busiest)}{more}, {links.utilisation:.1%} busy with "
        f"{format_bytes(links.bytes)} per step; mean over all links {links.mean_utilisation:.1%}"
    )
