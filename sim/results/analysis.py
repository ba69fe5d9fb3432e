"""Additions of `--explain` and `--critical-path` to the results of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.explanation import Bar, Explanation


@dataclass(frozen=True, slots=True)
class Analysis:
    """Explanations and bottlenecks of the phases of a run; None for what was not asked for."""

    explanations: Sequence[Explanation] | None = None
    bottlenecks: Sequence[Bottlenecks] | None = None
    saved_bars: Mapping[str, Sequence[Bar]] | None = None
    """Bars of the explanations by phase, if they were read from the results of a run."""

    @property
    def bars(self) -> Mapping[str, Sequence[Bar]]:
        """Bars of the explanations by phase."""
        return self.saved_bars or {each.phase: each.bars for each in self.explanations or ()}

    def critical_path(self) -> dict[str, Any]:
        """Returns the field that `--critical-path` adds to report.json."""
        if self.bottlenecks is None:
            return {}
        return {"critical_path": [each.to_dict() for each in self.bottlenecks]}

    def explain(self) -> list[dict[str, Any]] | None:
        """Returns the content of explain.json, None without `--explain`."""
        if self.explanations is None:
            return None
        return [bar for each in self.explanations for bar in each.to_list()]
