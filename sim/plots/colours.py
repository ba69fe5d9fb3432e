"""Colours and hatches of all figures and of the page: of operations, of parts of a step, of requests, of memory."""

from __future__ import annotations

from msgspec import Struct

from sim.report import critical_path as critical
from sim.report.ops import EXCHANGE_KERNEL, WAIT

PALETTE = {
    "blue": "#0072B2",
    "orange": "#E69F00",
    "green": "#009E73",
    "vermilion": "#D55E00",
    "sky": "#56B4E9",
    "purple": "#CC79A7",
    "yellow": "#F0E442",
    "wine": "#882255",
    "olive": "#999933",
    "indigo": "#332288",
    "forest": "#117733",
    "sand": "#DDCC77",
    "teal": "#44AA99",
    "rose": "#CC6677",
    "black": "#222222",
    "grey": "#8C8C8C",
    "light": "#DDDDDD",
}
"""Colours that stay apart for colour-blind readers (Okabe and Ito 2008, jfly.uni-koeln.de/color), and three greys;
for what is rare, seven of the muted scheme of Paul Tol (SRON technical note 09-002, 2021)."""

SERIES_COLOURS = tuple(
    PALETTE[name]
    for name in ("blue", "vermilion", "green", "purple", "orange", "sky", "black", "wine", "olive", "indigo")
)
"""Colours of the lines of a figure, or of the layouts of a search, in their order."""

OP_COLOURS = {
    "matmul": PALETTE["blue"],
    "attention": PALETTE["sky"],
    "shared experts": PALETTE["teal"],
    "elementwise": PALETTE["grey"],
    "all-gather": PALETTE["orange"],
    "reduce-scatter": PALETTE["vermilion"],
    "all-reduce": PALETTE["purple"],
    "all-to-all": PALETTE["green"],
    "dispatch": PALETTE["forest"],
    "combine": PALETTE["sand"],
    EXCHANGE_KERNEL: PALETTE["rose"],
    "broadcast": PALETTE["yellow"],
    "permute": PALETTE["olive"],
    "send": PALETTE["wine"],
    "copy": PALETTE["indigo"],
    WAIT: PALETTE["light"],
}
"""Colour per class of op, in the legend's order."""

HELD_COLOUR = "#777777"
"""Colour of the multiprocessors that collectives keep busy."""

REQUEST_COLOURS = [PALETTE["wine"], PALETTE["forest"], HELD_COLOUR]
"""Colours of requests in turn; white numbers are legible on each, and no part of a step has them."""

MEMORY_COLOURS = {
    "weights": PALETTE["blue"],
    "gathered weights": PALETTE["orange"],
    "KV cache": PALETTE["green"],
}
"""Colour per part of a chip's memory."""

DEVICE_COLOURS = [PALETTE[name] for name in ("blue", "vermilion", "green", "purple")]
"""Colours of devices whose memory is shown over time."""

CHANGE_COLOURS = {
    "formula": PALETTE["grey"],
    "more": PALETTE["vermilion"],
    "less": PALETTE["blue"],
    "none": PALETTE["grey"],
    "total": PALETTE["black"],
    "published": PALETTE["purple"],
}
"""Colours of a waterfall: what lengthens a step, what shortens it, and totals."""

LOAD_COLOURS = "viridis_r"
"""matplotlib's colour map of the load of links, light for idle ones; colour-blind readers and grey printers see it."""

LOAD_STEPS = [
    "#fde725",
    "#b5de2b",
    "#6ece58",
    "#35b779",
    "#1f9e89",
    "#26828e",
    "#31688e",
    "#3e4989",
    "#482878",
    "#440154",
]
"""Ten steps of that colour map."""


class Look(Struct, frozen=True):
    """Colour and hatch of a part of a step; no two parts of one bar share both, unless they mean the same."""

    colour: str
    hatch: str = ""
    """`/`, `x` or `.`, as matplotlib and plotly both know."""


PART_LOOKS = {
    **{name: Look(PALETTE["blue"]) for name in ("compute-bound", critical.COMPUTE)},
    **{name: Look(PALETTE["sky"]) for name in ("memory-bound", critical.MEMORY)},
    "overlapped": Look(PALETTE["green"]),
    "exposed": Look(PALETTE["vermilion"]),
    **{name: Look(PALETTE["purple"]) for name in ("stream join", critical.JOIN)},
    **{name: Look(PALETTE["indigo"]) for name in ("memory pool", critical.COPY)},
    "pipeline bubble": Look(PALETTE["light"], "x"),
    "idle": Look(PALETTE["light"]),
    critical.OP_OVERHEAD: Look(PALETTE["grey"]),
    critical.SLOWED: Look(PALETTE["sky"], "/"),
    critical.TRANSFER: Look(PALETTE["orange"]),
    critical.QUEUEING: Look(PALETTE["orange"], "/"),
    critical.LATENCY: Look(PALETTE["yellow"]),
    critical.START: Look(PALETTE["yellow"], "/"),
    critical.LAUNCH: Look(PALETTE["yellow"], "."),
    **{name: Look(PALETTE["yellow"], "x") for name in (EXCHANGE_KERNEL, critical.KERNEL)},
    critical.CALL: Look(PALETTE["light"], "."),
}
"""Look of every part of a step: activities of the critical chip and causes of the critical path."""
