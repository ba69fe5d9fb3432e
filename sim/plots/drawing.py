"""A drawing of nodes and lines in the plane, before it is painted: what the kinds of machine have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from sim import units
from sim.plots.colours import PALETTE
from sim.plots.style import LEAST_POINTS, points, text_width
from sim.topology.graph import Link

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

Point = tuple[float, float]


NAME_PT, LEAST_NAME_PT = 7.0, LEAST_POINTS
"""Size of the names of nodes at full scale, and the smallest that is read."""


class Line(Struct, frozen=True):
    """A curve through `points` in a colour of the palette."""

    points: tuple[Point, ...]
    color: str
    dashed: bool = False
    strength: float = 1.0
    """1 in front, less behind: how far the colour is from white."""
    width: float = 1.3
    label: str = ""
    """Written on the line at a third of its length: lines often cross in the middle."""
    links: tuple[int, ...] = ()
    """Positions in `Topology.links` of the links it stands for, from its first point to its last."""
    back: tuple[int, ...] = ()
    """The same of the opposite direction, where one line stands for both."""


class Node(Struct, frozen=True):
    """A chip (round), or a switch or socket (a box)."""

    at: Point
    label: str = ""
    size: float = 0.16
    """Half the height, in inches at full scale."""
    half_width: float | None = None
    """Half the width of a box; None for a round chip."""
    strength: float = 1.0
    name: str = ""
    """Full name, if it differs from the label."""
    chip: int = -1
    """Number of the chip; -1 for another node."""
    fill: str = ""
    """Colour inside; white where there is a label, else that of the edge."""

    def has_room(self, scale: float) -> bool:
        """Returns True if the label can be read in the node, where one unit is `scale` inches."""
        return names_fit([self.label], 2 * (self.half_width or self.size), scale)


class Drawing(Struct, frozen=True):
    """Lines, nodes over them, and what the legend and the title say."""

    lines: Sequence[Line]
    """From back to front."""
    nodes: Sequence[Node]
    legend: Sequence[tuple[str, str, bool]]
    """(label, colour, dashed)."""
    notes: Sequence[str] = ()
    """Lines under the title."""
    shown: Sequence[str] = ()
    """Which part of the machine is shown, where it is not the whole."""
    numbered: Sequence[str] = ()
    """Names of numbered chips, if their names do not fit into them."""
    legend_columns: int = 1
    margin: float = 0.4

    def corners(self) -> tuple[Point, Point]:
        """Returns the lower left and the upper right corner, margin included."""
        places = [point for line in self.lines for point in line.points]
        places += [(node.at[0] + sign * (node.half_width or 0), node.at[1]) for node in self.nodes for sign in (-1, 1)]
        xs, ys = [x for x, _ in places], [y for _, y in places]
        edge = self.margin
        return (min(xs) - edge, min(ys) - edge), (max(xs) + edge, max(ys) + edge)

    def list_named(self, scale: float) -> list[Node]:
        """Returns the nodes whose labels are drawn, where one unit is `scale` inches: all chips or none, and boxes."""
        labelled = [node for node in self.nodes if node.label]
        chips = [node for node in labelled if node.half_width is None]
        boxes = [node for node in labelled if node.half_width is not None and node.has_room(scale)]
        return [*boxes, *(chips if all(chip.has_room(scale) for chip in chips) else ())]

    def lacks_names(self, scale: float) -> bool:
        """Returns True if labels have no room, where one unit is `scale` inches."""
        return len(self.list_named(scale)) < sum(bool(node.label) for node in self.nodes)

    def handles(self) -> list[Artist]:
        """Returns the legend entries."""
        from matplotlib.lines import Line2D

        return [
            Line2D([], [], color=color, linestyle=(0, (3, 2)) if dashed else "-", label=label)
            for label, color, dashed in self.legend
        ]

    def paint(self, axes: Axes, scale: float) -> None:
        """Draws everything on `axes`, where one unit is `scale` inches."""
        from matplotlib.collections import LineCollection, PatchCollection
        from matplotlib.colors import to_rgb
        from matplotlib.patches import Circle, FancyBboxPatch, Patch

        def shade(color: str, strength: float) -> tuple[float, ...]:
            return tuple(1 - strength * (1 - channel) for channel in to_rgb(color))

        axes.add_collection(
            LineCollection(
                [line.points for line in self.lines],
                colors=[shade(line.color, line.strength) for line in self.lines],
                linestyles=[(0, (2, 1.5)) if line.dashed else "-" for line in self.lines],
                linewidths=[line.width * max(0.5, scale) for line in self.lines],
                zorder=1,
            ),
            autolim=False,
        )
        for line in self.lines:
            if line.label:
                place = line.points[len(line.points) // 3]
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.8}
                axes.text(*place, line.label, fontsize=points(7), color=line.color, ha="center", va="center", bbox=box)
        labelled, shapes = set(self.list_named(scale)), list[Patch]()
        for node in self.nodes:
            x, y = node.at
            edge = shade(PALETTE["black"], node.strength)
            shape: Patch
            if node.half_width is None:
                shape = Circle((x, y), node.size)
            else:
                corner = (x - node.half_width, y - node.size)
                shape = FancyBboxPatch(corner, 2 * node.half_width, 2 * node.size, boxstyle="round,pad=0.02")
            named = node in labelled
            shape.set(facecolor=node.fill or ("white" if named else edge), edgecolor=edge, linewidth=0.8)
            shapes.append(shape)
            if named:
                size = max(LEAST_NAME_PT, NAME_PT * scale)
                axes.text(x, y, node.label, fontsize=size, ha="center", va="center_baseline", zorder=3)
        axes.add_collection(PatchCollection(shapes, match_original=True, zorder=2), autolim=False)


def names_fit(names: Sequence[str], room: float, scale: float) -> bool:
    """Says whether all names can be read in nodes `room` units wide, where one unit is `scale` inches."""
    size = max(LEAST_NAME_PT, NAME_PT * scale)
    return max((text_width(name, size) for name in names), default=0.0) <= 0.9 * room * scale


def describe_link(link: Link) -> str:
    """Returns rate and latency of a link, `42.3 GB/s each way (45 nominal), 1 us`, and how many cables it sums up."""
    cables = f" in {link.cables} cables" if link.cables > 1 else ""
    nominal = f" ({link.nominal_bandwidth / 1e9:.4g} nominal)" if link.is_below_nominal else ""
    return f"{link.bandwidth / 1e9:.4g} GB/s each way{nominal}{cables}, {units.format_seconds(link.latency_s)}"
