"""The folder of several jobs on one machine: a report with a section per job, and the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sim.results import saved
from sim.results.figures import FigureForm, write_figure
from sim.simulate.together import Job, TogetherRun


def write(run: TogetherRun, folder: Path, form: FigureForm | None, origin: saved.Origin) -> None:
    """Writes report.json, the figures and manifest.json. The same jobs give the same bytes.

    Args:
        form: of the figures; None: no figures.
    """
    text = json.dumps(run.report.to_dict(), indent=2)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    if form:
        _draw(run, folder, form)
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


def _draw(run: TogetherRun, folder: Path, form: FigureForm) -> None:
    from sim.plots import link_map
    from sim.plots import together as timeline

    jobs = [timeline.JobTrace(job.name, job.group, job.together, job.alone.makespan_ps) for job in run.jobs]
    drawings = {
        "timeline": lambda: timeline.draw(jobs, run.machine, run.report.name),
        "links": lambda: link_map.draw(run.trace, run.machine, f"{run.report.name}, all jobs together"),
    }
    for name, draw in drawings.items():
        write_figure(draw, folder / name, form)
