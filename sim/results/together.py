"""The folder of several jobs on one machine: a report with a section per job, and the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sim.results import saved
from sim.simulate.together import Job, TogetherRun


def write(run: TogetherRun, folder: Path, formats: Sequence[str], origin: saved.Origin) -> None:
    """Writes report.json, the figures and manifest.json. The same jobs give the same bytes.

    Args:
        formats: each figure is written in each of them; without any there are no figures.
    """
    text = json.dumps(run.report.to_dict(), indent=2)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    if formats:
        _draw(run, folder, formats)
    saved.write_manifest(origin, folder)


def resolve_jobs(jobs: Sequence[Job], machine: str = "") -> dict[str, object]:
    """Returns jobs as a manifest holds them."""
    return {
        "machine": machine,
        "jobs": [
            {"scenario": saved.resolve_scenario(job.scenario), "chips": job.chips and list(job.chips)}
            | {"passes": job.passes}
            for job in jobs
        ],
    }


def _draw(run: TogetherRun, folder: Path, formats: Sequence[str]) -> None:
    from sim.plots import link_map
    from sim.plots.style import save

    drawings = {"links": link_map.draw(run.trace, run.machine, f"{run.report.name}, all jobs together")}
    for name, drawing in drawings.items():
        for suffix in formats:
            save(drawing, folder / f"{name}.{suffix}")
