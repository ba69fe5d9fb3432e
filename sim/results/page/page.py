"""The page of one run, or of two side by side.

The file carries plotly and the data compressed, and unpacks them with the browser's own DecompressionStream (Chromium
and Edge since 80, Firefox since 113, Safari since 16.4): about 2.5 MB where plotly alone would be 5.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from collections.abc import Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sim import __version__
from sim.plots.colours import CHANGE_COLOURS, DEVICE_COLOURS, LOAD_STEPS, PALETTE, REQUEST_COLOURS
from sim.report.present.bottlenecks import Bottlenecks
from sim.report.present.explanation import Explanation
from sim.results.page.data import page_data
from sim.units import BYTE_UNITS, TIME_UNITS

if TYPE_CHECKING:
    from sim.report.present.comparison import Comparison
    from sim.simulate.result import Run

_SCRIPTS = ("parts.js", "charts.js", "experts.js", "timeline.js", "page.js")
"""In this order: each uses what stands in those before it."""


def write(
    runs: Sequence[Run],
    path: Path,
    explanations: Sequence[Explanation] = (),
    bottlenecks: Sequence[Bottlenecks] = (),
    comparison: Comparison | None = None,
) -> None:
    """Writes the page of `runs`, one or two, to `path`. The same runs give the same bytes.

    Args:
        explanations: of the phases of the one run, if made.
        bottlenecks: the same.
        comparison: of the two runs.
    """
    data: dict[str, Any] = {
        "version": __version__,
        "units": {"times": TIME_UNITS, "bytes": BYTE_UNITS},
        "colours": {
            "palette": PALETTE,
            "requests": REQUEST_COLOURS,
            "devices": DEVICE_COLOURS,
            "changes": CHANGE_COLOURS,
            "load": LOAD_STEPS,
        },
        "runs": [page_data(run, explanations, bottlenecks) for run in runs],
        "comparison": comparison.to_dict() if comparison else None,
    }
    title = " and ".join(" ".join(filter(None, (run.scenario.name, run.settings_text))) for run in runs)
    variables = " ".join(f"--{name}: {colour};" for name, colour in PALETTE.items())
    parts = {
        "title": html.escape(title),
        "style": f":root {{ {variables} }}\n{_file('page.css')}",
        "script": "\n".join(map(_file, _SCRIPTS)),
        "plotly": _packed(_plotly()),
        "data": _packed(json.dumps(data, separators=(",", ":"), allow_nan=False).encode()),
    }
    text = _file("page.html")
    for name, part in parts.items():
        text = text.replace(f"<!--{name}-->", part)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _file(name: str) -> str:
    return (files("sim.results.page") / name).read_text(encoding="utf-8")


def _plotly() -> bytes:
    """Returns plotly.js from plotly's Python package, without importing the package."""
    spec = find_spec("plotly")
    if spec is None or spec.origin is None:  # pragma: no cover - a dependency of this package
        raise ModuleNotFoundError("plotly")
    return (Path(spec.origin).parent / "package_data" / "plotly.min.js").read_bytes()


def _packed(data: bytes) -> str:
    """Returns gzip without a date, as text."""
    return base64.b64encode(gzip.compress(data, 1, mtime=0)).decode("ascii")
