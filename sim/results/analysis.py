"""Additions of `--explain` and `--critical-path` to the results of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from msgspec import Struct, to_builtins

if TYPE_CHECKING:
    from sim.report.present.bottlenecks import Bottlenecks
    from sim.report.present.explanation import Explanation


class Analysis(Struct, frozen=True):
    """Explanations and bottlenecks of the phases of a run; None for what was not asked for."""

    explanations: Sequence[Explanation] | None = None
    bottlenecks: Sequence[Bottlenecks] | None = None

    def critical_path(self) -> dict[str, Any]:
        """Returns the field that `--critical-path` adds to report.json."""
        if self.bottlenecks is None:
            return {}
        return {"critical_path": [each.to_dict() for each in self.bottlenecks]}

    def explain(self) -> list[dict[str, Any]] | None:
        """Returns the content of explain.json, None without `--explain`."""
        if self.explanations is None:
            return None
        return [to_builtins(each) for each in self.explanations]
