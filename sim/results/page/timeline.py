"""Lanes of the timeline as columns: the chips the picture draws, op by op, message by message."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots.colours import HELD_COLOUR, OP_COLOURS
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.critical_path import find_critical_path
from sim.report.flows import Receivers
from sim.report.lanes import (
    Held,
    Lane,
    build_lanes,
    choose_chips,
    describe_chip,
    group_identical_chips,
    layer_times,
    multiprocessors_held,
)
from sim.report.metrics import critical_chip
from sim.report.ops import classify_ops
from sim.report.roofline import is_memory_bound
from sim.specs import Scenario

if TYPE_CHECKING:
    from sim.simulate.result import Pass

_CHIPS, _LINKS = 8, 12
MOST_SPANS = 150_000
"""Single messages are kept for as many layers around the middle as stay below this."""


def timeline_data(part: Pass) -> dict[str, Any]:
    """Returns lanes of the critical chip, of those with a role, and of others with other activities."""
    trace, topology, program = part.trace, part.topology, part.trace.program
    critical, roles = critical_chip(trace, topology.chips), part.chip_roles
    first = [critical, *map(topology.representative_of, roles)]
    groups = choose_chips(group_identical_chips(trace, topology), first)
    count = max(_CHIPS, 1 + len(part.chosen_chips))
    shown = [chip for chip, _ in groups[:count]]
    lanes = build_lanes(trace, topology, shown)
    times = layer_times(trace, shown[0])
    edges = times.edges
    chosen = [(chip, lane) for chip in shown for lane in _first_links(lanes[chip])]
    spans = [lane.spans for _, lane in chosen]
    layers, kept = max(len(edges) - 1, 0), None
    total = sum(len(each) for each in spans)
    if total > MOST_SPANS and layers > 1:
        half = max(1, int(layers * MOST_SPANS / total / 2))
        kept = (max(0, layers // 2 - half), min(layers - 1, layers // 2 + half))
        spans = [
            each.within(int(edges[kept[0]]), int(edges[kept[1] + 1])) if lane.kind == "link" else each
            for each, (_, lane) in zip(spans, chosen, strict=True)
        ]
    names = {}
    for chip, alike in groups[:count]:
        notes = describe_chip(topology, (chip, alike), critical, roles, part.chosen_chips)
        names[chip] = f"chip {topology.chip_number(chip)}" + (f", {', '.join(notes)}" if notes else "")
    slow, result = is_memory_bound(program), [_path(part)]
    receivers = _receivers(part, chosen)
    for each, (chip, lane) in zip(spans, chosen, strict=True):
        link = lane.kind == "link"
        result.append(
            {
                "chip": names[chip],
                "label": lane.label,
                "kind": lane.kind,
                **_columns(each),
                "op": program.op[each.task].tolist(),
                "layer": _deltas(program.layer[each.task]),
                "bytes": _deltas(program.bytes[each.task].round()) if lane.kind != "collectives" else [],
                "flops": program.flops[each.task].round().tolist() if lane.kind == "compute" else [],
                "slow": slow[each.task].astype(int).tolist() if lane.kind == "compute" else [],
                "to": program.peer[each.task].tolist() if link else [],
                "exposed": _columns(lane.exposed) if lane.kind == "collectives" else None,
                **(_arrows(part.trace, each, receivers) if link else {}),
            }
        )
    for chip in shown:
        if held := multiprocessors_held(trace, topology, chip):
            result.append(_held(names[chip], held, trace.makespan_ps))
    others = [len(topology.represented_by(chips)) for _, chips in groups[count:]]
    return {
        "chips": list(names.values()),
        "end": trace.makespan_ps,
        "ops": list(program.op_names),
        "classes": classify_ops(program).tolist(),
        "colours": OP_COLOURS,
        "held": HELD_COLOUR,
        "sources": _sources(part.scenario),
        "edges": edges.tolist(),
        "layers": times.names,
        "lanes": result,
        "messages_of_layers": kept,
        "folded": topology.is_folded,
        "roles": part.every_role,
        "not_drawn": sum(others),
    }


def _path(part: Pass) -> dict[str, Any]:
    """Returns the critical path as a lane."""
    program, path, topology = part.trace.program, find_critical_path(part.trace), part.topology
    return {
        "chip": "",
        "label": "critical path",
        "kind": "path",
        "start": _deltas(path.start),
        "length": path.length.tolist(),
        "op": program.op[path.task].tolist(),
        "layer": _deltas(program.layer[path.task]),
        "bytes": [],
        "flops": [],
        "slow": [],
        "to": [],
        "on": topology.chip_numbers[program.chip[path.task]].tolist(),
        "flies": path.flies.astype(int).tolist(),
        "kinds": program.kind[path.task].tolist(),
        "exposed": None,
    }


def _held(chip: str, held: Held, end_ps: int) -> dict[str, Any]:
    """Returns the multiprocessors that collectives keep busy on a chip as a lane of bars, whose heights are `count`."""
    empty: dict[str, list[int]] = {name: [] for name in ("op", "layer", "bytes", "flops", "slow", "to")}
    return {
        "chip": chip,
        "label": "multiprocessors",
        "kind": "held",
        "start": _deltas(held.time_ps),
        "length": np.diff(held.time_ps, append=end_ps).tolist(),
        "count": held.count.tolist(),
        "total": held.total,
        "exposed": None,
        **empty,
    }


def _receivers(part: Pass, chosen: Sequence[tuple[int, Lane]]) -> Receivers:
    """Returns the collectives on the lanes of the page, which are numbered from 1: the critical path is lane 0."""
    lanes: dict[int, list[Lane]] = {}
    numbers: dict[int, list[int]] = {}
    for number, (chip, lane) in enumerate(chosen, start=1):
        lanes.setdefault(chip, []).append(lane)
        numbers.setdefault(chip, []).append(number)
    return Receivers.build(part.trace, part.topology.chips, lanes, numbers)


def _arrows(trace: Trace, sends: sp.Spans, receivers: Receivers) -> dict[str, list[int]]:
    """Returns the lane in which each message of a link arrives, -1 if it is not shown, and when, after its link is
    free."""
    flows = receivers.flows_of(trace, sends)
    lane, later_ps = np.full(len(sends), -1), np.zeros(len(sends), dtype=np.int64)
    lane[flows.position] = flows.track
    later_ps[flows.position] = flows.arrival_ps - trace.times["free"][flows.task]
    return {"arrives": lane.tolist(), "later": later_ps.tolist()}


def _first_links(lanes: list[Lane]) -> list[Lane]:
    """Returns all lanes except links beyond the number that a page has room for; the busiest are kept."""
    links = [lane for lane in lanes if lane.kind == "link"]
    if len(links) > _LINKS:
        busy = sorted(links, key=lambda lane: -lane.spans.total_ps)[:_LINKS]
        links = [lane for lane in links if any(lane is one for one in busy)]
    return [lane for lane in lanes if lane.kind != "link"] + [lane for lane in links if len(lane.spans)]


def _columns(spans: sp.Spans) -> dict[str, list[int]]:
    return {"start": _deltas(spans.start), "length": (spans.end - spans.start).tolist()}


def _deltas(values: np.ndarray) -> list[int]:
    """Differences from one to the next: repeated layers repeat, so they compress."""
    differences: list[int] = np.diff(values.astype(np.int64), prepend=0).tolist()
    return differences


def _sources(scenario: Scenario) -> dict[str, str]:
    """Returns the sources of the rates that set the lengths of spans."""
    machine = scenario.topology
    peak = scenario.matmul_peak
    bandwidth = machine.chip.hbm_bandwidth
    sources = {
        "flops": f"{peak.value / 1e12:.4g} TFLOP/s: {peak.source}",
        "memory": f"{bandwidth.value / 1e9:.4g} GB/s of memory: {bandwidth.source}",
        "collective": f"launch: {scenario.stack.collective_overhead.source}",
    }
    link = getattr(machine, "link", None)
    if link is not None:
        sources["link"] = f"{link.bandwidth.value / 1e9:.4g} GB/s a link: {link.bandwidth.source}"
    return sources
