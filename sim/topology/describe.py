"""Facts about a machine that `sim topology` prints."""

from __future__ import annotations

from collections import Counter
from typing import Any

from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.topology.metrics import bisection, hops
from sim.units import EXACTLY


def facts(topology: Topology) -> dict[str, Any]:
    """Returns chips, links, hops and bisection as JSON data; bandwidths in bytes/s one way, latencies in seconds.

    Link bandwidths are those that long transfers reach, and beside each that of the data sheet.
    """
    paths, cut = hops(topology), bisection(topology)
    rates = sorted({(link.bandwidth / link.cables, link.nominal_bandwidth / link.cables) for link in topology.links})
    return {
        "name": topology.name,
        "chip": topology.chip.name,
        "chips": topology.chips,
        "boxes": [len(box) for box in boxes(topology)] if not topology.has_lines else [],
        "axes": {axis.name: {"size": axis.size, "ring": axis.ring} for axis in topology.axes},
        "links": sum(link.cables for link in topology.links),
        "link_bandwidth": [bandwidth for bandwidth, _ in rates],
        "link_nominal_bandwidth": [nominal for _, nominal in rates],
        "link_latency_s": sorted({link.latency_s for link in topology.links}),
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
    latencies = " or ".join(f"{value * 1e6:.4g}" for value in facts["link_latency_s"])
    bound = "" if facts["bisection_exact"] else "at most "
    described = [
        ("machine", f"{facts['name']}, chip {facts['chip']}"),
        ("chips", f"{facts['chips']}: {axes}"),
        ("links", f"{facts['links']} directed, {bandwidths} GB/s one way, {latencies} us per hop"),
        ("diameter", f"{facts['diameter_hops']} hops"),
        ("average hops", f"{facts['average_hops']:.6g} (over all pairs, itself included)"),
        (
            "bisection bandwidth",
            f"{bound}{facts['bisection_bandwidth'] / 1e9:,.4g} GB/s one way over {facts['bisection_links']} links",
        ),
    ]
    if len(facts["boxes"]) > 1:
        sizes = Counter(facts["boxes"])
        text = ", ".join(f"{count} of {size} chip{'s' * (size > 1)}" for size, count in sizes.items())
        described.insert(2, ("boxes", f"{text}, joined by a network alone"))
    return described
