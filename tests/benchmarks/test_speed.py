"""Speed, on demand: `pytest tests/benchmarks --benchmark-only`."""

import numpy as np
import pytest

from sim import load, topology
from sim.collectives import schedule
from sim.collectives.emit import emit
from sim.engine import simulate
from sim.lower import lower
from sim.program import Kind, Program, ProgramBuilder


def chain(tasks: int) -> Program:
    """One chip: matmul, send, matmul, ... each waiting for the last."""
    builder = ProgramBuilder(["compute", "link"])
    kinds = np.arange(tasks) % 2
    ids = np.arange(tasks)
    builder.add("t", Kind.COMPUTE, np.zeros(tasks), busy_ps=1000, flight_ps=100 * kinds, resource=kinds, deps=[ids - 1])
    return builder.build()


def layers(count: int) -> Program:
    scenario = load.scenario("palm540b_decode_ws2d", [f"engine.layers={count}"])
    return lower(scenario, topology.build(scenario.topology)).program


def all_to_all(machine: str) -> Program:
    built = topology.build(load.topology_spec(machine))
    builder = ProgramBuilder([*map(str, range(built.chips)), *(link.name for link in built.links)])
    emit(builder, built, schedule(built, "all_to_all", ("x", "y", "z"), "dimension_ordered"), 2**20, "all_to_all")
    return builder.build()


PROGRAMS = {
    "chain of 200,000 tasks": lambda: chain(200_000),
    "one layer, 64 chips": lambda: layers(1),
    "118 layers, 64 chips": lambda: layers(118),
    "dimension-ordered all-to-all, 512 chips": lambda: all_to_all("tpu_v4_8x8x8"),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_engine(benchmark, name: str) -> None:
    program = PROGRAMS[name]()
    benchmark.pedantic(simulate, [program], rounds=3)
    benchmark.extra_info["tasks"] = len(program)
    benchmark.extra_info["tasks_per_s"] = round(len(program) / benchmark.stats.stats.min)


def test_lowering(benchmark) -> None:
    scenario = load.scenario("palm540b_decode_ws2d")
    machine = topology.build(scenario.topology)
    benchmark.pedantic(lower, [scenario, machine], rounds=3)
