"""The timeline of several jobs: one axis, a panel per job, and on a shared chip the computation of the others."""

from __future__ import annotations

from matplotlib.figure import Figure

from sim.plots import together as timeline
from sim.simulate.together import Job, run_together
from sim.specs import load


def drawn(*places: range) -> Figure:
    scenario = load.scenario("llama3_70b_tp8_ladder", ["engine.layers=2", "layout.mesh.tensor=4"])
    run = run_together([Job(scenario, tuple(place)) for place in places])
    jobs = [timeline.JobTrace(job.name, job.group, job.together, job.alone.makespan_ps) for job in run.jobs]
    return timeline.draw(jobs, run.machine)


def labels(figure: Figure) -> list[list[str]]:
    return [[tick.get_text() for tick in axes.get_yticklabels()] for axes in figure.axes]


def test_a_shared_chip_shows_the_computation_for_the_other_job():
    figure = drawn(range(4), range(2, 6))
    assert labels(figure) == [["compute", "collectives", "link", f"compute of job {other}"] for other in (2, 1)]
    chips = [axes.get_title("left").split(" on ")[1].split(":")[0] for axes in figure.axes]
    assert chips[0] == chips[1]
    assert chips[0] in ("chip 2 of 8", "chip 3 of 8")


def test_jobs_apart_are_drawn_alone_on_one_axis_with_the_time_alone_marked():
    figure = drawn(range(4), range(4, 8))
    assert labels(figure) == [["compute", "collectives", "link"]] * 2
    first, second = figure.axes
    assert first.get_xlim() == second.get_xlim()
    assert all(axes.lines[-1].get_xdata()[0] == axes.get_xlim()[1] for axes in figure.axes)  # as long as alone
    assert all(axes.get_title("left").endswith("1.000x") for axes in figure.axes)
