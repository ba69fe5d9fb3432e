"""Folding: one chip stands for all, to the picosecond, and only where all chips are alike."""

import numpy as np
import pytest
from machines import switch, torus, twisted

from sim import load, topology
from sim.collectives import ON_TORUS, schedule
from sim.collectives.emit import emit
from sim.collectives.fold import NotFoldableError, fold
from sim.collectives.loop import all_gather_loop, reduce_scatter_loop
from sim.engine import simulate
from sim.lower import lower
from sim.program import ProgramBuilder

MESHES = [(2,), (3,), (8,), (2, 2), (4, 3), (2, 4, 2), (1, 4, 4), (4, 4, 4)]
ALGORITHMS = [(collective, name) for collective, algorithms in ON_TORUS.items() for name in algorithms]


def times(machine, plan, size=1e6):
    builder = ProgramBuilder([*map(str, range(machine.chips)), *(link.name for link in machine.links)])
    emit(builder, machine, plan, size, "collective")
    return simulate(builder.build())


def assert_stands_for_all(folded, full):
    """Every chip's tasks, in order, have the times of the folded chip's tasks."""
    by_chip = np.argsort(full.program.chip, kind="stable").reshape(-1, len(folded.program))
    for field in ("ready", "start", "free", "end"):
        assert (full.times[field][by_chip] == folded.times[field]).all()


@pytest.mark.parametrize("sizes", MESHES, ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_folded_collective_has_the_times_of_the_whole(collective, algorithm, sizes):
    machine = torus(*sizes)
    axes = tuple(axis.name for axis in machine.axes)[: 1 if collective == "permute" else None]
    try:
        plan = schedule(machine.folded(), collective, axes, algorithm)
    except NotFoldableError:
        assert (collective in ("broadcast",)) or algorithm == "line"  # a root, ends: chips that differ
        return
    assert_stands_for_all(times(machine.folded(), plan), times(machine, schedule(machine, collective, axes, algorithm)))


@pytest.mark.parametrize("form", ["one_way", "bidirectional_throughput", "bidirectional_latency"])
@pytest.mark.parametrize("loop", [all_gather_loop, reduce_scatter_loop])
def test_folded_loop_has_the_times_of_the_whole(loop, form):
    machine = torus(4, 3, 2)
    for axis in "xyz":
        folded = machine.folded()
        assert_stands_for_all(times(folded, loop(folded, axis, form)), times(machine, loop(machine, axis, form)))


@pytest.mark.parametrize("settings", [[], ["layout.overlap=none"], ["layout.attention=heads"], ["layout.block=serial"]])
def test_folded_layers_have_the_times_of_the_whole(settings):
    scenario = load.scenario("palm540b_decode_ws2d_b512", ["engine.layers=2", *settings])
    machine = topology.build(scenario.topology)
    folded, full = (simulate(lower(scenario, m).program) for m in (machine.folded(), machine))
    assert_stands_for_all(folded, full)
    assert lower(scenario, machine.folded()).weights_bytes == lower(scenario, machine).weights_bytes


def test_a_mesh_does_not_fold():
    with pytest.raises(ValueError, match="not every chip sees the same links"):
        torus(4, 4, wrap=False).folded()


def test_a_schedule_in_which_one_chip_does_more_does_not_fold():
    machine = torus(4, 4)
    plan = schedule(machine, "broadcast", ("x", "y"))
    with pytest.raises(NotFoldableError):
        fold(plan, machine)


def test_a_switch_does_not_fold_yet():
    with pytest.raises(NotFoldableError, match="not send to their neighbours only"):
        schedule(switch(4).folded(), "all_reduce", ("g",))


def test_a_twisted_torus_folds_only_where_it_is_alike():
    machine = twisted()
    assert machine.vertex_transitive
    with pytest.raises(NotFoldableError):  # the twisted axes are used as lines
        schedule(machine.folded(), "all_gather", ("x", "y", "z"))
