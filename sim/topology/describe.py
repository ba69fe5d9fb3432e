"""Facts about a machine that `sim topology` prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sim.topology.boxes import boxes, racks
from sim.topology.graph import Topology
from sim.topology.metrics import bisection, hops
from sim.units import EXACTLY


def facts(topology: Topology) -> dict[str, Any]:
    """Returns chips, links, hops and bisection as JSON data; bandwidths in bytes/s one way, latencies in seconds.

    Latencies of links contain the time in which software starts a message, `message_start_s`.

    Link bandwidths are those that long transfers reach, and beside each that of the data sheet.
    """
    paths, cut = hops(topology), bisection(topology)
    rates = sorted({(link.bandwidth / link.cables, link.nominal_bandwidth / link.cables) for link in topology.links})
    return {
        "name": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "boxes": [len(box) for box in boxes(topology)] if not topology.has_lines else [],
        "racks": [len(rack) for rack in racks(topology)] if not topology.has_lines else [],
        "axes": {axis.name: {"size": axis.size, "ring": axis.ring} for axis in topology.axes},
        "links": sum(link.cables for link in topology.links),
        "link_bandwidth": [bandwidth for bandwidth, _ in rates],
        "link_nominal_bandwidth": [nominal for _, nominal in rates],
        "link_latency_s": sorted({link.latency_s for link in topology.links}),
        "unused_links": list(topology.unused),
        "message_start_s": topology.software.message_start_s,
        "diameter_hops": paths.diameter,
        "average_hops": paths.average,
        "bisection_links": cut.links,
        "bisection_bandwidth": cut.bandwidth,
        "bisection_exact": cut.exact,
    }


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Returns (label, value) lines to print."""
    axes = " ".join(f"{name}={axis['size']}{' (ring)' if axis['ring'] else ''}" for name, axis in facts["axes"].items())
    bandwidths = " or ".join(
        f"{reached / 1e9:.4g}" + (f" (nominal {nominal / 1e9:.4g})" if reached < nominal * EXACTLY else "")
        for reached, nominal in zip(facts["link_bandwidth"], facts["link_nominal_bandwidth"], strict=True)
    )
    latencies = f"{_format_us(facts['link_latency_s'])} us per hop"
    if start_s := facts["message_start_s"]:
        wires = _format_us([latency_s - start_s for latency_s in facts["link_latency_s"]])
        latencies += f": {wires} link.latency + {start_s * 1e6:.4g} of the stack to start a message"
    bound = "" if facts["bisection_exact"] else "at most "
    described = [
        ("machine", f"{facts['name']}, chip {facts['chip']}"),
        ("chips", f"{facts['chips']}: {axes}"),
        ("links", f"{facts['links']} directed, {bandwidths} GB/s one way, {latencies}"),
        ("diameter", f"{facts['diameter_hops']} hops"),
        ("average hops", f"{facts['average_hops']:.6g} (over all pairs, itself included)"),
        (
            "bisection bandwidth",
            f"{bound}{facts['bisection_bandwidth'] / 1e9:,.4g} GB/s one way over {facts['bisection_links']} links",
        ),
    ]
    if unused := facts["unused_links"]:
        described.insert(3, ("unused links", f"{', '.join(unused)}: messages would crowd onto them"))
    for level, how in (("racks", "each on its own leaf switches"), ("boxes", "joined by a network alone")):
        if len(facts[level]) > 1:
            sizes = Counter(facts[level])
            text = ", ".join(f"{count} of {size} chip{'s' * (size > 1)}" for size, count in sizes.items())
            described.insert(2, (level, f"{text}, {how}"))
    return described


def _format_us(times_s: Sequence[float]) -> str:
    return " or ".join(f"{time_s * 1e6:.4g}" for time_s in times_s)
