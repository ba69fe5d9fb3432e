"""Every algorithm in `COLLECTIVES` carries out its collective, and the replay that says so catches broken ones."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import torus, twisted
from replay import ReplayError, replay

from sim.collectives import COLLECTIVES, Schedule, schedule
from sim.collectives.loop import LoopForm, all_gather_loop, reduce_scatter_loop
from sim.collectives.reduce import reverse
from sim.errors import InputError, LayoutError
from sim.topology import Topology

ALGORITHMS = [(collective, name) for collective, algorithms in COLLECTIVES.items() for name in algorithms]
MESHES = {
    **{f"ring{k}": torus(k) for k in (1, 2, 3, 4, 5, 8)},
    **{f"line{k}": torus(k, wrap=False) for k in (2, 3, 4, 5)},
    "2x2": torus(2, 2),
    "2x2 mesh": torus(2, 2, wrap=False),
    "4x4": torus(4, 4),
    "2x4x2 mixed": torus(2, 4, 2, wrap=[False, True, False]),
    "1x4x4": torus(1, 4, 4),
    "3x4 mixed": torus(3, 4, wrap=[True, False]),
    "4x4x4": torus(4, 4, 4),
    "4x4x4 mesh": torus(4, 4, 4, wrap=False),
    "4x4x8 twisted": twisted(),
}
# Direct messages between all pairs of 64 chips are 60,000 sends: one such replay is enough.
TOO_MANY = {"4x4x4 mesh", "4x4x8 twisted"}
FORMS: tuple[LoopForm, ...] = ("one_way", "bidirectional_throughput", "bidirectional_latency")


def choices(topology: Topology, collective: str) -> Iterator[tuple[str, ...]]:
    """Axes to run a collective over: all of them together; a permute has one at a time."""
    names = tuple(axis.name for axis in topology.axes)
    if collective == "permute":
        yield from ((name,) for name in names)
    else:
        yield names


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_every_algorithm_carries_out_its_collective(collective: str, algorithm: str, mesh: str) -> None:
    if algorithm == "dimension_ordered" and mesh in TOO_MANY:
        pytest.skip("covered by smaller meshes")
    for axes in choices(MESHES[mesh], collective):
        replay(schedule(MESHES[mesh], collective, axes, algorithm), MESHES[mesh])


@pytest.mark.parametrize("axes", ["x", "z", "yx", "zy", ""])
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_groups_over_some_axes_work_side_by_side(collective: str, algorithm: str, axes: str) -> None:
    if collective == "permute" and len(axes) > 1:
        pytest.skip("a permute goes along one axis")
    topology = torus(3, 2, 4, wrap=[True, False, True])
    plan = schedule(topology, collective, tuple(axes), algorithm)
    replay(plan, topology)
    assert {topology.links[i].axis for i in plan.link.tolist()} == set(axes)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_random_meshes(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=3))
    wraps = [data.draw(st.booleans()) for _ in sizes]
    topology = torus(*sizes, wrap=wraps)
    collective, algorithm = data.draw(st.sampled_from(ALGORITHMS))
    names = data.draw(st.permutations([axis.name for axis in topology.axes]))
    for axes in choices(topology, collective) if collective == "permute" else [tuple(names)]:
        plan = schedule(topology, collective, axes, algorithm)
        if len(plan) < 10_000:
            replay(plan, topology)


def test_direct_messages_take_the_routes_of_a_twisted_torus() -> None:
    # 3.4375 hops on average over all 128 targets, against 4 on the regular torus.
    topology = twisted()
    plan = schedule(topology, "all_to_all", ("x", "y", "z"), "dimension_ordered")
    assert plan.share.sum() / topology.chips == pytest.approx(3.4375)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("form", FORMS)
def test_loops_carry_out_their_collective(form: LoopForm, size: int) -> None:
    topology = torus(size, 2)
    replay(all_gather_loop(topology, "x", form), topology)
    replay(reduce_scatter_loop(topology, "x", form), topology)


@pytest.mark.parametrize("size", [2, 5, 8])
@pytest.mark.parametrize("form", FORMS)
def test_steps_and_directions_of_loops_say_which_chunk_travels(form: LoopForm, size: int) -> None:
    topology = torus(size)
    hops = {
        "one_way": {1: size - 1, -1: 0},
        "bidirectional_throughput": {1: size - 1, -1: size - 1},
        "bidirectional_latency": {1: size // 2, -1: (size - 1) // 2},
    }[form]
    gather, scatter = all_gather_loop(topology, "x", form), reduce_scatter_loop(topology, "x", form)
    total = np.where(scatter.direction > 0, hops[1], hops[-1])
    assert np.array_equal(gather.origin[:, 0], (gather.src - gather.direction * gather.step) % size)
    assert np.array_equal(scatter.target[:, 0], (scatter.src + scatter.direction * (total - scatter.step)) % size)
    for plan in (gather, scatter):
        assert {d: len(set(plan.step[plan.direction == d].tolist())) for d in (1, -1)} == hops
        assert set(plan.half.tolist()) <= ({0, 1} if form == "bidirectional_throughput" else {-1})


def test_loops_need_a_ring() -> None:
    with pytest.raises(LayoutError, match="axis 'x' of torus does not wrap"):
        all_gather_loop(torus(4, wrap=False), "x", "one_way")
    with pytest.raises(InputError, match="did you mean 'one_way'"):
        all_gather_loop(torus(4), "x", "one way")


@pytest.mark.parametrize("algorithm", COLLECTIVES["all_gather"])
def test_reversing_twice_gives_the_all_gather_again(algorithm: str) -> None:
    topology = torus(4, 3, wrap=[True, False])
    plan = schedule(topology, "all_gather", ("x", "y"), algorithm)
    again = reverse(reverse(plan, topology), topology)
    for column in ("src", "dst", "link", "share", "direction", "step", "part", "half", "origin", "dep_counts", "deps"):
        assert np.array_equal(getattr(plan, column), getattr(again, column)), column


def test_names_are_resolved_with_suggestions() -> None:
    topology = torus(4, 4, collectives={"all_gather": "ring"})
    assert len(schedule(topology, "all_gather", ("x",))) == 3 * 16
    assert schedule(topology, "all_gather", ("x",)) is schedule(topology, "all_gather", ("x",))
    with pytest.raises(InputError, match="did you mean 'all_gather'"):
        schedule(topology, "all_gathr", ("x",))
    with pytest.raises(InputError, match="did you mean 'multi_axis'"):
        schedule(topology, "all_gather", ("x",), "multiaxis")
    with pytest.raises(InputError, match="choose from x, y"):
        schedule(topology, "all_gather", ("z",))
    with pytest.raises(InputError, match="each axis once"):
        schedule(topology, "all_gather", ("x", "x"))
    with pytest.raises(InputError, match="one axis"):
        schedule(topology, "permute", ("x", "y"))
    with pytest.raises(InputError, match="multi_axis"):
        schedule(torus(16, 16, 8), "all_to_all", ("x", "y", "z"), "dimension_ordered")


# --- the replay catches what is broken -------------------------------------------------------------------------------

PER_SEND = ("src", "dst", "link", "share", "step", "direction", "own", "part", "half", "origin", "target")


def _rebuilt(plan: Schedule, deps: list[list[int]], keep: list[int]) -> Schedule:
    """The schedule with other dependencies and only the sends `keep`."""
    number = {send: i for i, send in enumerate(keep)}
    kept = [[number[dep] for dep in deps[send] if dep in number] for send in keep]
    return replace(
        plan,
        **{name: getattr(plan, name)[keep] for name in PER_SEND},
        dep_counts=np.array([len(row) for row in kept], dtype=np.int32),
        deps=np.array([dep for row in kept for dep in row], dtype=np.int32),
    )


def drop_a_send(plan: Schedule, victim: int) -> Schedule:
    deps = [plan.dependencies(send).tolist() for send in range(len(plan))]
    return _rebuilt(plan, deps, [send for send in range(len(plan)) if send != victim])


def drop_a_dependency(plan: Schedule, victim: int) -> Schedule:
    deps = [plan.dependencies(send).tolist() for send in range(len(plan))]
    deps[int(np.flatnonzero(plan.dep_counts)[victim % int((plan.dep_counts > 0).sum())])].pop()
    return _rebuilt(plan, deps, list(range(len(plan))))


def misstate_a_share(plan: Schedule, victim: int) -> Schedule:
    share = plan.share.copy()
    share[victim] *= 1.5
    return replace(plan, share=share)


def swap_chunks(plan: Schedule, victim: int) -> Schedule:
    columns = {name: getattr(plan, name).copy() for name in ("origin", "target")}
    for box in columns.values():
        box[victim] = np.where(box[victim] >= 0, (box[victim] + 1) % 4, -1)
    return replace(plan, **columns)


@pytest.mark.parametrize("broken", [drop_a_send, drop_a_dependency, misstate_a_share, swap_chunks])
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_replay_catches_broken_schedules(
    collective: str, algorithm: str, broken: Callable[[Schedule, int], Schedule]
) -> None:
    topology = torus(4, 4)
    plan = schedule(topology, collective, ("x",) if collective == "permute" else ("x", "y"), algorithm)
    if broken is drop_a_dependency and not len(plan.deps):
        pytest.skip("nothing depends on anything")
    for victim in range(0, len(plan), max(1, len(plan) // 7)):
        with pytest.raises(ReplayError):
            replay(broken(plan, victim), topology)
