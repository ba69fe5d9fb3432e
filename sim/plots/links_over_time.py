"""Heat map of links and time: the share of each part of the time in which a link is busy.

Links that are busy at the same times have one row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from sim.plots.colours import LOAD_COLOURS, PALETTE
from sim.plots.style import add_title, figure_width, is_narrow, new_figure, points, set_title, shared_style, text_width
from sim.plots.timeline import LAYERS_IN_DETAIL, share_bins
from sim.program import Floats, Ints
from sim.program.trace import Trace
from sim.report import spans as sp
from sim.report.lanes import layer_times, link_label
from sim.report.metrics import critical_chip
from sim.topology.graph import Topology
from sim.units import PS_PER_S, format_count, format_percent, format_seconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_WIDTH_IN, _AROUND_IN, _ROW_IN = 11.0, 0.95, 0.17
_MOST_IN = 5.0
"""Most height of the rows of a panel; of more rows some are not named."""
_MOST_ROWS = 1000
"""More rows than a panel has pixels would hide one another: the busiest are drawn."""
_BINS_PER_IN = 30
_NAMES, _MOST_NAMES = 2, 0.35
"""Names of links of a row, of more the number is told; and the share of the width that they may take."""
_BAR_IN = 0.9
"""Width of the colour bar; in a narrow figure it lies below."""
_POINTS = 7.0
_IDLE = "#F2F2F2"


def draw(trace: Trace, topology: Topology, title: str = "") -> Figure:
    """Draws the load of all links over the whole time, and over a layer from the middle."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.ticker import FuncFormatter

    times = layer_times(trace, critical_chip(trace, topology.chips))
    parts = [(0, max(trace.makespan_ps, 1), "Whole step" if len(times) else "Whole time")]
    if len(times):
        middle = len(times) // 2
        begin, end = times.edges[middle : middle + 2].tolist()
        parts.append((begin, end, f"Layer {times.layer[middle]} of {times.layer.min()} to {times.layer.max()}"))
    spans = sp.link_spans(trace, topology)
    counts = np.bincount(topology.representative_links, minlength=len(topology.links))
    bins = [bin_edges(begin, end) for begin, end, _ in parts]
    if len(times) > LAYERS_IN_DETAIL:  # other bins would beat against the layers
        bins[0] = share_bins(times.edges, trace.makespan_ps)
    panels = [link_shares(spans, edges, len(topology.links)) for edges in bins]
    scale = Normalize(0.0, max(1e-9, *(float(panel.max(initial=0.0)) for panel in panels)))
    rows = group_equal_links(panels)
    whole = sorted(rows, key=lambda links: -panels[0][links[0]].sum())
    kept = {int(links[0]) for links in whole[:_MOST_ROWS]}
    rows = [links for links in rows if int(links[0]) in kept]
    if topology.has_lines:  # links along an axis stand together
        rows.sort(key=lambda links: link_label(topology.links[int(links[0])]))
    busy = [links for links in rows if panels[0][links[0]].any()]
    names = [_name_row(topology, links, int(counts[links].sum())) for links in busy]
    names_in = max((text_width(name, points(_POINTS)) for name in names), default=0.0) + 0.2
    beside_in = names_in + (0.0 if is_narrow() else _BAR_IN)
    height_in = min(_MOST_IN, max(_ROW_IN * len(busy), 3 * _ROW_IN))
    below_in = 0.6 if is_narrow() else 0.0
    made = new_figure(_WIDTH_IN, (_AROUND_IN + height_in) * len(parts) + below_in)
    idle = int(counts.sum()) - sum(int(counts[links].sum()) for links in busy)
    with shared_style():
        all_axes = made.subplots(len(parts), 1, squeeze=False)[:, 0]
        for axes, (begin, end, what), panel, edges in zip(all_axes, parts, panels, bins, strict=True):
            shares = panel[[links[0] for links in busy]] if busy else np.zeros((1, panel.shape[1]))
            _draw_panel(axes, shares, names, edges, scale)
            each = ", a part per layer" if edges is bins[0] and len(times) > LAYERS_IN_DETAIL else ""
            set_title(axes, f"{what}, {format_seconds((end - begin) / PS_PER_S)}{each}", _WIDTH_IN, beside_in)
        place: dict[str, Any] = {"location": "bottom" if is_narrow() else "right", "aspect": 40, "pad": 0.015}
        bar = made.colorbar(ScalarMappable(scale, LOAD_COLOURS), ax=list(all_axes), **place)
        bar.outline.set_visible(False)
        bar.formatter = FuncFormatter(lambda value, _: f"{value:.3g}" if not value else format_percent(value))
        bar.update_ticks()
        bar.set_label("busy, share of each part (grey: idle)")
        left_out = len(whole) - len(rows)
        notes = [format_count(idle, "link") + " idle"] if idle else []
        notes += [f"{left_out} rows of less busy links not drawn"] if left_out else []
        name, _, below = (title or topology.name).partition("\n")
        name += f": {', '.join(notes)}" if notes else ""
        add_title(made, "\n".join([name, below]) if below else name)
    return made


def bin_edges(begin: int, end: int) -> Ints:
    """Returns the edges of parts of the time that are about as wide as two points, ps."""
    count = max(1, min(int(_BINS_PER_IN * figure_width(_WIDTH_IN)), end - begin))
    return begin + np.arange(count + 1) * (end - begin) // count


def group_equal_links(panels: list[Floats]) -> list[Ints]:
    """Returns groups of links with equal shares in all panels, [links, bins] each, by their first link."""
    _, first, group = np.unique(np.hstack(panels), axis=0, return_index=True, return_inverse=True)
    return [np.flatnonzero(group.ravel() == k) for k in np.argsort(first)]


def link_shares(spans: sp.Spans, edges: Ints, links: int) -> Floats:
    """Returns the busy share of each link in each bin, [links, bins]."""
    shares = np.zeros((links, len(edges) - 1))
    order = np.lexsort((spans.start, spans.lane))
    spans = spans.where(order)
    bounds = np.searchsorted(spans.lane, np.arange(links + 1))
    for link in np.flatnonzero(np.diff(bounds)).tolist():
        shares[link] = sp.coverage(spans.where(np.arange(*bounds[link : link + 2])), edges)
    return shares


def _draw_panel(axes: Axes, shares: Floats, names: list[str], edges: Ints, scale: Normalize) -> None:
    """Draws rows of shares, the first on top; a part without a message stays grey."""
    length = int(edges[-1] - edges[0])
    unit, name = next((each for each in ((PS_PER_S, "s"), (10**9, "ms")) if length > 2 * each[0]), (10**6, "us"))
    rows = np.arange(len(shares) + 1) - 0.5
    axes.set_facecolor(_IDLE)
    busy = np.ma.masked_equal(shares, 0.0)
    axes.pcolormesh((edges - edges[0]) / unit, rows, busy, cmap=LOAD_COLOURS, norm=scale, rasterized=True)
    axes.invert_yaxis()
    named = len(shares) * _ROW_IN <= _MOST_IN
    step = 1 if named else -(-len(names) * _ROW_IN // _MOST_IN)
    ticks = list(range(0, len(names), int(step)))
    axes.set_yticks(ticks, [names[i] for i in ticks], fontsize=points(_POINTS))
    axes.tick_params(axis="y", length=0)
    for row in rows[1:-1] if named else ():
        axes.axhline(row, color="white", linewidth=0.8)
    axes.set_xlabel(f"time, {name}")
    axes.spines[:].set_visible(False)
    axes.spines["bottom"].set(visible=True, color=PALETTE["grey"])


def _name_row(topology: Topology, links: Ints, count: int) -> str:
    """Returns the name of a row: `x+ of 64 chips`, or as many names of its links as there is room for."""
    chosen = [topology.links[link] for link in links.tolist()]
    if count == 1:
        return str(chosen[0].name)
    labels = list(dict.fromkeys(link_label(link) if link.src < topology.chips else link.name for link in chosen))
    names = [
        ", ".join(labels[:most]) + (", ..." if len(labels) > most else "") + f" ({count})"
        for most in range(_NAMES, 0, -1)
    ]
    room_in = _MOST_NAMES * figure_width(_WIDTH_IN)
    return next((name for name in names if text_width(name, points(_POINTS)) <= room_in), names[-1])
