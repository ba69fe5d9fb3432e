"""Every algorithm carries out its collective, and the replay that says so catches broken ones."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.algorithms import ALGORITHMS, FORMS, ON_ANY_ROUTE, fits
from support.machines import full_mesh, graph, switch, torus, twisted, two_sockets
from support.selection import release_if

from sim import topology
from sim.collectives import ON_ROUTES, ON_TORUS, Schedule, schedule
from sim.collectives.chunk_replay import ReplayError, replay
from sim.collectives.loop import LoopForm, all_gather_loop, reduce_scatter_loop
from sim.collectives.reduce import reverse
from sim.collectives.schedule import PER_SEND
from sim.errors import InputError, LayoutError
from sim.specs import load
from sim.topology import Topology

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
ROUTED = {
    **{f"switch{n}": switch(n) for n in (1, 2, 3, 4, 5, 8, 16)},
    "full mesh of 4": full_mesh(4),
    "full mesh of 5": full_mesh(5),
    "two sockets": two_sockets(),
    "line of 4": graph("01", "12", "23", chips=4),  # chips forward
    "square": graph("01", "12", "23", "30", chips=4),  # two ways to the chip opposite
    "two boxes with two adapters": graph(
        *("0a", "1a", "2a", "3a", "4b", "5b", "6b", "7b", "0c", "2d", "4c", "6d"),
        chips=8,
        switches="abcd",
        slow="0c 2d 4c 6d",
        net=True,
    ),
}
# Direct messages between all pairs of 64 chips are 60,000 sends: one such replay is enough.
TOO_MANY = {"4x4x4 mesh", "4x4x8 twisted"}


def choices(topology: Topology, collective: str) -> Iterator[tuple[str, ...]]:
    """Axes to run a collective over: all of them together; a permute has one at a time."""
    names = tuple(axis.name for axis in topology.axes)
    if collective == "permute":
        yield from ((name,) for name in names)
    else:
        yield names


@pytest.mark.every_case
@pytest.mark.parametrize("mesh", release_if(MESHES, "4x4x4"))
@pytest.mark.parametrize(("collective", "algorithm"), ALGORITHMS)
def test_every_algorithm_carries_out_its_collective(collective: str, algorithm: str, mesh: str) -> None:
    if algorithm == "dimension_ordered" and mesh in TOO_MANY:
        pytest.skip("covered by smaller meshes")
    for axes in choices(MESHES[mesh], collective):
        replay(schedule(MESHES[mesh], collective, axes, algorithm), MESHES[mesh])


@pytest.mark.parametrize("machine", ROUTED)
@pytest.mark.parametrize(("collective", "algorithm"), ON_ANY_ROUTE)
def test_every_algorithm_carries_out_its_collective_over_routes(collective: str, algorithm: str, machine: str) -> None:
    topology = ROUTED[machine]
    if fits(algorithm, topology.chips):
        replay(schedule(topology, collective, ("g",), algorithm), topology)
        assert len(schedule(topology, collective, (), algorithm)) == 0
    else:
        with pytest.raises(InputError, match=f"needs a group of a power of two chips, got {topology.chips}"):
            schedule(topology, collective, ("g",), algorithm)


def test_a_machine_runs_only_the_algorithms_of_its_kind() -> None:
    with pytest.raises(InputError) as refused:
        schedule(switch(4), "all_gather", ("g",), "multi_axis")
    assert str(refused.value) == (
        "topology box: the algorithm 'multi_axis' of all_gather does not run on a switch; "
        "choose from ring, one_shot, halving_doubling"
    )
    with pytest.raises(InputError, match="'tree' of all_reduce does not run on a torus"):
        schedule(torus(4), "all_reduce", ("x",), "tree")
    with pytest.raises(InputError, match="no axis of that name, got 'x'; choose from g"):
        schedule(switch(4), "all_gather", ("x",))
    default, chosen = switch(4), switch(4, collectives={"all_reduce": "two_shot"})
    assert len(schedule(default, "all_reduce", ("g",))) == len(schedule(default, "all_reduce", ("g",), "ring"))
    assert (
        schedule(chosen, "all_reduce", ("g",)).step.tolist()
        == schedule(chosen, "all_reduce", ("g",), "two_shot").step.tolist()
    )


def test_a_message_on_a_switch_is_a_send_by_a_port_at_each_end() -> None:
    topology = switch(3)
    plan = schedule(topology, "all_gather", ("g",), "one_shot")
    names = [
        f"{topology.links[plan.link[before]].name} {topology.links[link].name}"
        for link, before in zip(plan.link, plan.follows, strict=True)
        if before >= 0
    ]
    # Everyone sends to the next chip first, then to the one after it.
    assert names == [f"gpu{i}:egress gpu{(i + k) % 3}:ingress" for k in (1, 2) for i in range(3)]


def test_a_message_on_a_graph_is_a_send_per_link() -> None:
    topology = two_sockets()
    plan = schedule(topology, "permute", ("g",))
    assert [topology.links[link].name for link in plan.link] == [
        *("0->a#0", "1->a#0", "2->b#0", "a->1#0", "a->b#0", "b->3#0", "b->2#0")
    ]
    assert plan.arrives(topology).tolist() == [False, False, False, True, False, True, True]
    assert plan.follows.tolist() == [-1, -1, -1, 0, 1, 2, 4]


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


@pytest.mark.parametrize(
    ("topology", "algorithm"),
    [
        *((torus(4, 3, wrap=[True, False]), algorithm) for algorithm in ON_TORUS["all_gather"]),
        *((machine, algorithm) for machine in (switch(4), two_sockets()) for algorithm in ON_ROUTES["all_gather"]),
    ],
)
def test_reversing_twice_gives_the_all_gather_again(topology: Topology, algorithm: str) -> None:
    plan = schedule(topology, "all_gather", tuple(axis.name for axis in topology.axes), algorithm)
    again = reverse(reverse(plan, topology), topology)
    for column in (
        "src",
        "dst",
        "link",
        "follows",
        "share",
        "direction",
        "step",
        "part",
        "half",
        "origin",
        "dep_counts",
        "deps",
    ):
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


def _rebuilt(plan: Schedule, deps: list[list[int]], keep: list[int]) -> Schedule:
    """The schedule with other dependencies and only the sends `keep`."""
    number = {send: i for i, send in enumerate(keep)}
    kept = [[number[dep] for dep in deps[send] if dep in number] for send in keep]
    return replace(
        plan,
        **{name: getattr(plan, name)[keep] for name in PER_SEND},
        follows=np.array([number.get(int(plan.follows[send]), -1) for send in keep], dtype=np.int32),
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


def drop_dependencies(plan: Schedule, victim: int) -> Schedule:
    """All of one send, not just one: where an array travels as several sends, each waits for all that came before.

    In an all-gather what a chip sends of its own is right whenever it leaves.
    """
    deps = [plan.dependencies(send).tolist() for send in range(len(plan))]
    needed = np.flatnonzero((plan.dep_counts > 0) & ~(plan.own & (plan.collective == "all_gather")))
    deps[int(needed[victim % len(needed)])] = []
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


def redirect(plan: Schedule, victim: int) -> Schedule:
    links = plan.link.copy()
    links[victim] = (links[victim] + 2) % 8
    return replace(plan, link=links)


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


SQUARE = graph("01", "12", "23", "30", chips=4)
"""There are two ways to the chip opposite."""


@pytest.mark.parametrize("topology", [switch(4), two_sockets(), SQUARE], ids=["switch", "graph", "square"])
@pytest.mark.parametrize("broken", [drop_a_send, drop_dependencies, misstate_a_share, swap_chunks, redirect])
@pytest.mark.parametrize(("collective", "algorithm"), ON_ANY_ROUTE)
def test_replay_catches_broken_messages(
    collective: str, algorithm: str, broken: Callable[[Schedule, int], Schedule], topology: Topology
) -> None:
    plan = schedule(topology, collective, ("g",), algorithm)
    if broken is drop_dependencies and not len(plan.deps):
        pytest.skip("nothing depends on anything")
    for victim in range(0, len(plan), max(1, len(plan) // 7)):
        if broken is swap_chunks and (plan.origin[victim] < 0).all() and (plan.target[victim] < 0).all():
            continue
        with pytest.raises(ReplayError):
            replay(broken(plan, victim), topology)


def test_replay_catches_what_waits_for_only_some_ways_of_a_message() -> None:
    """What a chip gathers is the sum of what has come to it, from the chip opposite by two ways."""
    plan = schedule(SQUARE, "all_reduce", ("g",), "two_shot")
    waits = [plan.dependencies(send).tolist() for send in range(len(plan))]
    of_two = [send for send, deps in enumerate(waits) if {0, 1} <= set(plan.way[deps].tolist())]
    assert of_two
    for send in of_two:
        deps = [list(each) for each in waits]
        deps[send] = [dep for dep in deps[send] if plan.way[dep] == 0]
        with pytest.raises(ReplayError, match="wait"):
            replay(_rebuilt(plan, deps, list(range(len(plan)))), SQUARE)


# --- too many sends --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "collective", "algorithm", "size"),
    [
        ("dgx_h100", ["chips=65536"], "all_reduce", None, 2.0**30),
        ("dgx_h100", ["chips=65536"], "all_reduce", "tree", 2.0**30),
        ("tpu_v4_8x8x8", ["axes={x: {size: 65536, wrap: true}}"], "all_to_all", None, 2.0**30),
    ],
)
def test_a_collective_of_too_many_sends_is_refused_at_once(name, settings, collective, algorithm, size):
    machine = topology.build(*load.machine(name, settings))
    with pytest.raises(InputError, match=f"^{collective}: must take at most 20,000,000 sends on this machine; ask for"):
        schedule(machine, collective, tuple(axis.name for axis in machine.axes), algorithm, size)
