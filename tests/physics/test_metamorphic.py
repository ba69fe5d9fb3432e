"""What changes of the hardware must do to the step of every shipped scenario, whatever the step is."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import numpy as np
import pytest
from support.selection import each_once, release_if
from support.shipped import NAMES, scenario
from support.shipped_machines import one_of_each_wiring, wired_differently

from sim import topology as machines
from sim import units
from sim.collectives import COLLECTIVES, ON_ROUTES, algorithm_of
from sim.collectives.emit import CollectiveCall, emit
from sim.collectives.exchange import ExchangeSpec, exchange
from sim.collectives.nccl import kernels as library
from sim.engine import simulate
from sim.errors import InputError
from sim.lowering import placement
from sim.program import Kind, ProgramBuilder
from sim.simulate.forward_pass import lower_pass
from sim.simulate.latency import latency_s
from sim.specs import Medium, Scenario, TopologySpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.topology.boxes import boxes

RATES = ("B/s", "FLOP/s")
Path_ = tuple[str | int, ...]
Data = dict[str, Any]


def quantities(data: Any, path: Path_ = ()) -> Iterator[tuple[Path_, str]]:
    """(path, unit) of every rate and time of the hardware in a scenario's data."""
    if path[:1] == ("reference",) or path[-1:] == ("arrivals",):
        return
    if isinstance(data, str):
        for unit in (*RATES, "s"):
            try:
                units.parse(data, unit)
            except InputError:
                continue
            yield path, unit
    pairs = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in pairs:
        yield from quantities(value, (*path, key))


def field(path: Path_) -> str:
    """The field that a quantity belongs to: a table of NCCL's is one field."""
    keys = [str(key) for key in path if key != "value"]
    return ".".join(keys[: keys.index("nccl") + 2] if "nccl" in keys else keys)


def faster(given: Scenario, chosen: Callable[[str], bool], arrivals: bool = False) -> Scenario:
    """The scenario with twice each rate and half each time in the chosen fields."""
    data: Data = given.model_dump(mode="json", exclude_none=True)
    for path, unit in list(quantities(data)):
        if chosen(field(path)):
            change(data, path, unit)
    if arrivals:
        own = data["layout"].get("pipeline", {}).get("arrivals", {})
        for path, unit in list(quantities(own)):
            change(own, path, unit)
    return Scenario.model_validate(data)


def change(data: Any, path: Path_, unit: str) -> None:
    for key in path[:-1]:
        data = data[key]
    value = units.parse(data[path[-1]], unit)
    data[path[-1]] = units.text(value * 2 if unit in RATES else value / 2, unit)


@functools.cache
def time_s(name: str) -> float:
    return latency_s(scenario(name))


FIELDS = [
    (name, own)
    for name in NAMES
    for own in sorted(
        {field(path) for path, _ in quantities(scenario(name).model_dump(mode="json", exclude_none=True))}
    )
]

# --- faster hardware -------------------------------------------------------------------------------------------------


def collective_sizes(given: Scenario) -> set[tuple[str, float]]:
    """(collective, bytes) of every collective of a step but sends between stages."""
    found = set()
    for phase in given.phases:
        program = lower_pass(phase)[1].program
        for task in np.flatnonzero(program.kind == Kind.BEGIN).tolist():
            name = program.op_names[program.op[task]].partition("(")[0]
            if name in COLLECTIVES:
                found.add((name, float(program.bytes[task])))
    return found


def regrets_the_tuner(before: Scenario, after: Scenario) -> bool:
    """NCCL chooses by its own predictions: on the faster machine it takes another kernel that is slower there."""
    was, then = placement.mesh_of(before), placement.mesh_of(after)
    axes = tuple(axis.name for axis in then.axes)
    for name, size in collective_sizes(before):
        kernels = [algorithm_of(machine, name, before.collectives.get(name), size) for machine in (was, then)]
        if kernels[0] != kernels[1]:
            old_s, new_s = (bench.simulate_time_s(then, CollectiveSpec(name, axes, size, kernel)) for kernel in kernels)
            if new_s > old_s:
                return True
    return False


def has_other_channels(before: Scenario, after: Scenario) -> bool:
    """NCCL's search fits its table of speeds to the links: another table gives another number of channels."""
    counts = {library.fabric(placement.mesh_of(given)).ring.count for given in (before, after)}
    return len(counts) == 2


SLOWER = {
    "topology.link.bandwidth": regrets_the_tuner,
    "topology.nccl.counted": lambda was, then: has_other_channels(was, then) or regrets_the_tuner(was, then),
    "topology.nccl.nvls": regrets_the_tuner,
}
"""Field -> why a step may be slower where it is faster; the reason must hold where a step is."""


@pytest.mark.parametrize(
    ("name", "changed"), each_once(FIELDS, lambda name, changed: ((scenario(name).topology.kind, changed),))
)
def test_faster_hardware_makes_no_step_slower(name: str, changed: str):
    """By more than 1 %, unless a reason that is known holds."""
    before = scenario(name)
    after = faster(before, lambda own: own == changed)
    if latency_s(after) > time_s(name) * 1.01:
        assert changed in SLOWER
        assert before.topology.nccl
        assert SLOWER[changed](before, after)


@pytest.mark.parametrize("name", NAMES)
def test_twice_every_rate_and_half_every_time_is_half_the_time(name: str):
    """Each task is rounded to a picosecond: every task gains or loses half of one, all one after the other at most."""
    given = scenario(name)
    tasks = sum(len(lower_pass(phase)[1].program) * phase.workload.steps for phase in given.phases)
    then_s = latency_s(faster(given, lambda own: True, arrivals=True))
    assert then_s == pytest.approx(time_s(name) / 2, rel=0, abs=tasks * 1e-12)


# --- names, and links that nothing uses ------------------------------------------------------------------------------


def machine_and_change(name: str, changed: Callable[[Data], Data]) -> tuple[object, ...]:
    return scenario(name).topology.name, changed.__name__


def of_kind(kind: str) -> list[str]:
    return [name for name in NAMES if scenario(name).topology.kind == kind]


@pytest.mark.parametrize("name", of_kind("torus"))
def test_names_of_axes_do_not_matter(name: str):
    """The same sizes in the same order under other letters, the later ones first in the alphabet."""
    data = scenario(name).model_dump(mode="json", exclude_none=True)
    axes = data["topology"]["axes"]
    letters = dict(zip(axes, "wvut", strict=False))
    for axis in axes.values():
        axis["twist"] = {letters[other]: shift for other, shift in axis.get("twist", {}).items()}
    data["topology"]["axes"] = {letters[axis]: value for axis, value in axes.items()}
    assert latency_s(Scenario.model_validate(data)) == time_s(name)


def renamed(topology: Data) -> Data:
    """A graph whose nodes have other names, in the reverse order of the alphabet."""
    names = {node: f"n{len(topology['nodes']) - i:03}" for i, node in enumerate(topology["nodes"])}
    links = [{**link, "between": [names[node] for node in link["between"]]} for link in topology["links"]]
    return topology | {"nodes": {names[node]: kind for node, kind in topology["nodes"].items()}, "links": links}


def with_spare_link(topology: Data) -> Data:
    """A graph with one more link, from its first switch or socket, else a chip, to a switch that leads nowhere."""
    near = min(topology["nodes"], key=lambda node: topology["nodes"][node] not in ("switch", "socket"))
    link = {"between": [near, "spare"], "link": next(iter(topology["link_types"]))}
    return topology | {"nodes": topology["nodes"] | {"spare": "switch"}, "links": [*topology["links"], link]}


SAME_MACHINE = (renamed, with_spare_link)


@pytest.mark.parametrize(("name", "changed"), each_once(product(of_kind("graph"), SAME_MACHINE), machine_and_change))
def test_names_of_nodes_and_spare_links_do_not_matter_to_a_step(name: str, changed: Callable[[Data], Data]):
    data = scenario(name).model_dump(mode="json", exclude_none=True)
    data["topology"] = changed(data["topology"])
    assert latency_s(Scenario.model_validate(data)) == time_s(name)


def with_twice_the_links(topology: Data) -> Data:
    """A graph with twice as many links side by side."""
    return topology | {"links": [{**link, "count": 2 * link.get("count", 1)} for link in topology["links"]]}


def with_shortcut(topology: Data) -> Data:
    """A graph with one more link from the first chip to the last: of its network, where it has one, else its first."""
    chips, types = [node for node, kind in topology["nodes"].items() if kind == "chip"], topology["link_types"]
    of_network = [name for name, kind in types.items() if kind.get("medium") == "net"]
    link = {"between": [chips[0], chips[-1]], "link": [*of_network, *types][0]}
    return topology | {"links": [*topology["links"], link]}


@pytest.mark.parametrize(
    ("name", "changed"), each_once(product(of_kind("graph"), (with_twice_the_links, with_shortcut)), machine_and_change)
)
def test_more_links_make_no_step_slower(name: str, changed: Callable[[Data], Data]):
    data = scenario(name).model_dump(mode="json", exclude_none=True)
    data["topology"] = changed(data["topology"])
    assert latency_s(Scenario.model_validate(data)) <= time_s(name) * 1.01


def collective_times(spec: TopologySpec) -> dict[str, float]:
    """Times of 100 MB of every collective by every algorithm, and of rows to experts, on a machine of boxes."""
    machine = machines.build(spec)
    axes = tuple(axis.name for axis in machine.axes)
    times = {}
    for collective, algorithms in ON_ROUTES.items():
        for algorithm in algorithms:
            call = CollectiveSpec(collective, axes, 1e8, algorithm)
            times[f"{collective} by {algorithm}"] = bench.simulate_time_s(machine, call, kernel="compiled")
    rows, boxed = np.full((machine.chips, machine.chips), 64.0), np.full((machine.chips, len(boxes(machine))), 300.0)
    for way, forwarded in product(("dispatch", "combine"), (None, boxed)):
        plan = exchange(machine, axes, ExchangeSpec((rows,), (forwarded,)), way)
        builder = ProgramBuilder(bench.resources(machine))
        emit(builder, machine, CollectiveCall(plan, 1e8, way))
        kind = "straight" if forwarded is None else "forwarded"
        times[f"{way} {kind}"] = simulate(builder.build(), "compiled").makespan_ps / 1e12
    return times


@functools.cache
def shipped_times(name: str) -> dict[str, float]:
    return collective_times(load.topology_spec(name))


FOUR_BOXES = ("hgx_b200_x4", "dgx_h100_x4_leaf_spine")
Names = list[str]
ENDS: dict[str, tuple[Medium, Callable[[Names, Names], Names]]] = {
    "chips of two boxes": ("net", lambda chips, others: [chips[0], chips[-1]]),
    "chips of a box": ("net", lambda chips, others: chips[:2]),
    "chips of a box by NVLink": ("nvlink", lambda chips, others: chips[:2]),
    "a chip and a switch of another box": ("net", lambda chips, others: [chips[-1], others[0]]),
    "a chip and a switch of the network": ("net", lambda chips, others: [chips[0], others[-1]]),
    "a chip and a switch of the network by NVLink": ("nvlink", lambda chips, others: [chips[0], others[-1]]),
    "switches of the network": ("net", lambda chips, others: others[-2:]),
}
"""Medium and ends of one more link, by the names of chips and of other nodes."""


@pytest.mark.parametrize("ends", ENDS)
@pytest.mark.parametrize("name", release_if(["dgx_h100_x2", *FOUR_BOXES], *FOUR_BOXES))
def test_one_link_more_makes_no_collective_between_boxes_much_slower(name: str, ends: str):
    """Messages come in another order: some collectives take up to 14 % longer, where crowds make them seven times as
    long."""
    spec = load.topology_spec(name)
    data = spec.model_dump(mode="json", exclude_none=True)
    chips, others = (
        [node for node, kind in data["nodes"].items() if (kind == "chip") == is_chip] for is_chip in (True, False)
    )
    medium, between = ENDS[ends]
    (link,) = (each for each, own in data["link_types"].items() if own.get("medium", "nvlink") == medium)
    data["links"].append({"between": between(chips, others), "link": link})
    before, after = shipped_times(name), collective_times(type(spec).model_validate(data))
    assert {each: after[each] / before[each] for each in before if after[each] > before[each] * 1.15} == {}


GRAPHS = wired_differently([name for name in load.shipped("topology") if load.topology_spec(name).kind == "graph"])


@pytest.mark.parametrize("changed", SAME_MACHINE)
@pytest.mark.parametrize("collective", ["all_reduce", "all_gather", "all_to_all", "broadcast"])
@pytest.mark.parametrize("name", one_of_each_wiring(GRAPHS, less=["dgx_h100_x4_leaf_spine"]))
def test_names_of_nodes_and_spare_links_do_not_matter_to_a_collective(name: str, collective: str, changed):
    spec = load.topology_spec(name)
    other = type(spec).model_validate(changed(spec.model_dump(mode="json", exclude_none=True)))
    times = []
    for given in (spec, other):
        machine = machines.build(given)
        axes = tuple(axis.name for axis in machine.axes)
        algorithm = algorithm_of(machine, collective, None, 1e6)
        times.append(
            bench.simulate_time_s(machine, CollectiveSpec(collective, axes, 1e6, algorithm), kernel="compiled")
        )
    assert times[0] == times[1]
