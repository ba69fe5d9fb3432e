"""Data of the page of a run, as JSON: times in picoseconds as differences, which compress well."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from msgspec import to_builtins

from sim.plots import colours
from sim.plots.drawing import describe_link
from sim.plots.machine import Load, drawing_of, list_segments
from sim.plots.stages import bin_edges
from sim.report.breakdown import compute_breakdown, stage_shares
from sim.report.headline import list_headline_figures
from sim.report.links import KindLoad, load_by_kind
from sim.report.pipeline import stage_batches
from sim.report.pool import peer_memory_over_time
from sim.report.present import text
from sim.report.present.bottlenecks import Bottlenecks, path_title
from sim.report.present.explanation import Explanation
from sim.report.present.sections import plugin_sections
from sim.results.page.timeline import timeline_data
from sim.results.page.waterfall import waterfall_data
from sim.simulate.predict import find_uncovered
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_bytes, format_count

if TYPE_CHECKING:
    from sim.simulate.result import Pass, Run

_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_GIB = 2**30
_MATRIX_CHIPS = 256
"""Most chips of which the page has the bytes between any two."""


def page_data(run: Run, explanations: Sequence[Explanation], bottlenecks: Sequence[Bottlenecks]) -> dict[str, Any]:
    """Returns all data of one run."""
    report = run.report
    return {
        "name": report.scenario,
        "settings": run.settings_text,
        "description": run.scenario.description,
        "machine": report.machine,
        "chips": report.chips,
        "layers": report.layers_simulated,
        "all_layers": report.layers,
        "folded": report.folded,
        "tasks": run.tasks,
        "notes": [
            *(f"note: {note}" for note in report.notes),
            *([f"rests on: {report.rests_on.text}"] if report.rests_on else []),
            *(f"engine: {each}" for each in report.shortcuts),
        ],
        "headline": [
            {"label": label, "value": value, "definition": meaning}
            for label, value, meaning in list_headline_figures(report)
        ],
        "looks": {name: [look.colour, look.hatch] for name, look in colours.PART_LOOKS.items()},
        "overall": _blocks(text.overall_blocks(report)),
        "memory": _blocks((*text.memory_blocks(report), *plugin_sections(report, run.scenario.plugins))),
        "phases": [_phase(part, explanations, bottlenecks) for part in run.passes],
        "scenario": yaml.dump(
            run.scenario.model_dump(mode="json", exclude_none=True),
            Dumper=_DUMPER,
            sort_keys=False,
            allow_unicode=True,
            width=100,
        ),
    }


def _phase(part: Pass, explanations: Sequence[Explanation], bottlenecks: Sequence[Bottlenecks]) -> dict[str, Any]:
    scenario, trace, topology = part.scenario, part.trace, part.topology
    name = scenario.workload.phase
    bottleneck = next((each for each in bottlenecks if each.phase == name), None)
    path_shares = bottleneck.shares if bottleneck else part.attribute_step()
    parts = compute_breakdown(trace, topology, part.lowered.batches)
    return {
        "phase": name,
        "title": text.phase_title(part.report, name),
        "span": part.span,
        "step": _blocks(text.step_blocks(part.report)),
        "step_s": trace.makespan_ps / PS_PER_S,
        "breakdown": [{"name": key, "time_s": time_s} for key, time_s in parts.items()],
        "critical": path_shares.to_dict()
        | {
            "title": path_title(part.span, path_shares),
            "about": {share.name: share.about for share in (*path_shares.causes, *path_shares.ops)},
        },
        "what_if": [each.to_dict() for each in bottleneck.what_if] if bottleneck else None,
        "waterfall": waterfall_data(part, next((each for each in explanations if each.phase == name), None)),
        "uncovered": find_uncovered(scenario) or "this machine and layout",
        "stages": _stages(part),
        "timeline": timeline_data(part),
        "experts": _experts(part, topology.unfold()),
        "links": _links(part, topology.unfold()),
        "memory": _memory(part),
    }


def _blocks(blocks: Iterable[text.Block]) -> list[list[dict[str, Any]]]:
    """Returns tables and lines as the terminal prints them."""
    return [[to_builtins(part) for part in block] for block in blocks]


def _stages(part: Pass) -> dict[str, Any] | None:
    """Batches on the stages of a pipeline: [stage, begin and length in ms, number, request] each; None without one.

    A bar begins when the last rank of the stage has the batch. `shares` are those of each bin of the time.
    """
    batches = part.lowered.batches
    if batches is None:
        return None
    bars, edges = [], bin_edges(part.trace)
    for stage in range(len(batches.layers)):
        for each in stage_batches(part.trace, batches, stage):
            number = f"{each.request}.{each.part}" if batches.parts > 1 else str(each.request)
            begin_ms, end_ms = (ps * 1e3 / PS_PER_S for ps in (each.begin, each.end))
            bars.append([stage, round(begin_ms, 6), round(end_ms - begin_ms, 6), number, each.request])
    return {
        "rows": [f"stage {i}, {format_count(n, 'layer')}" for i, n in enumerate(batches.layers)],
        "bars": bars,
        "edges": (edges * 1e3 / PS_PER_S).round(6).tolist(),
        "shares": [
            {name: share.round(5).tolist() for name, share in shares.items()}
            for shares in stage_shares(part.trace, part.topology, batches, edges)
        ],
    }


def _links(part: Pass, machine: Topology, way: str = "") -> dict[str, Any]:
    """Returns the machine in the plane: nodes, and every direction of every link with its load, or that of dispatch or
    combine alone."""
    load = Load.of(part.trace, part.topology, way)
    drawing = drawing_of(machine, load)
    lines = []
    for segment in list_segments(drawing):
        worst = max(segment.links, key=lambda i: load.utilisation[i])
        link = machine.links[worst]
        lines.append(
            {
                "x": [round(x, 3) for x, _ in segment.points],
                "y": [round(y, 3) for _, y in segment.points],
                "busy": round(float(load.utilisation[worst]), 6),
                "bytes": float(load.bytes[list(segment.links)].sum()),
                "name": link.name + (f" (of {len(segment.links)})" if len(segment.links) > 1 else ""),
                "rate": describe_link(link),
                "dashed": segment.dashed,
            }
        )
    nodes = [
        {
            "x": round(node.at[0], 3),
            "y": round(node.at[1], 3),
            "label": node.label,
            "name": node.name or node.label,
            "radius": node.size,
            "box": [node.half_width, node.size] if node.half_width is not None else None,
        }
        for node in drawing.nodes
    ]
    kinds = load_by_kind(machine, load.utilisation, load.bytes, part.makespan_ps / PS_PER_S)
    return {"nodes": nodes, "lines": lines, "notes": list(drawing.shown), "kinds": [to_builtins(_kinds(kinds))]}


def _experts(part: Pass, machine: Topology) -> dict[str, Any] | None:
    """Returns the rows of chips and experts, the bytes from chip to chip, and the load of links under dispatch and
    combine; None without experts."""
    rows, found = part.lowered.expert_rows, part.report.experts
    if rows is None or found is None:
        return None
    between = rows.bytes_between("dispatch") if found.exchanges and machine.chips <= _MATRIX_CHIPS else None
    drawn = "" if found.is_drawn else " if tokens choose at random"
    expected = found.expected_fullest_rows
    without = f"; it {found.expected_leaves_out}" if found.expected_leaves_out else ""
    said = f"Diamond: the fullest expert by closed form{drawn}, {expected:,.0f}{without}" if expected else None
    return {
        "chips": rows.of_chips.tolist(),
        "experts": np.sort(rows.held.ravel())[::-1].tolist(),
        "expected": None if expected is None else {"rows": expected, "text": said},
        "matrix": None if between is None else between.tolist(),
        "maps": [{"way": each.way, **_links(part, machine, each.way)} for each in found.exchanges],
    }


def _kinds(kinds: Sequence[KindLoad]) -> text.Table:
    """Returns a row per kind of link."""
    columns = ("kind of link", "links", "bytes", "busy", "busiest link", "GB/s while busy")
    return text.Table(columns, (tuple(_kind_cells(each) for each in kinds),))


def _kind_cells(load: KindLoad) -> tuple[str, ...]:
    used = ["idle", ""]
    if load.bytes:
        more = f" and {load.tied - 1:,} more" if load.tied > 1 else ""
        busiest = "all alike" if load.tied == load.links else f"{load.busiest}{more}, {load.busiest_utilisation:.1%}"
        used = [busiest, f"{load.rate_bytes_per_s / 1e9:.4g} of {load.bandwidth_bytes_per_s / 1e9:.4g}"]
    return (load.kind, f"{load.links:,}", format_bytes(load.bytes), f"{load.utilisation:.1%}", *used)


def _memory(part: Pass) -> dict[str, Any]:
    """Returns GiB on the fullest chip, and the growth of the cache with the tokens."""
    memory, workload = part.report.memory, part.scenario.workload
    parts = {
        "weights": memory.weights_bytes,
        "gathered weights": memory.gather_buffer_bytes,
        "KV cache": memory.kv_cache_bytes,
    }
    grows = []
    if workload.phase == "decode" and workload.final_cache_length and not workload.static_cache:
        steps = np.unique(np.linspace(0, workload.steps, 9).round())
        lengths = workload.final_cache_length - workload.steps + steps
        cache = memory.kv_cache_bytes * lengths / workload.final_cache_length
        fixed = memory.weights_bytes + memory.gather_buffer_bytes
        grows = [[float(step), round((fixed + size) / _GIB, 6)] for step, size in zip(steps, cache, strict=True)]
    return {
        "parts": [
            {"name": name, "gib": size / _GIB, "colour": colours.MEMORY_COLOURS[name]}
            for name, size in parts.items()
            if size
        ],
        "capacity_gib": memory.capacity_bytes / _GIB,
        "fits": memory.fits,
        "grows": grows,
        "devices": _devices(part),
    }


def _devices(part: Pass) -> list[dict[str, Any]]:
    """Returns the memory over time of a memory pool, GiB from each moment (ms) on; empty without a pool."""
    pool, chip = part.report.pool, part.report.critical_chip
    if pool is None:
        return []
    here = part.topology.representative_of(chip)
    series = {
        f"chip {chip}": part.memory_of(chip),
        f"{pool.to}, layers of chip {chip}": peer_memory_over_time(
            part.trace, here, pool.remote_bytes, pool.layer_bytes
        ),
    }
    end_s = part.makespan_ps / PS_PER_S
    return [
        {
            "name": name,
            "x": (np.append(times, end_s) * 1e3).round(6).tolist(),
            "y": (np.append(sizes, sizes[-1]) / _GIB).round(4).tolist(),
        }
        for name, (times, sizes) in series.items()
    ]
