"""Speed, on demand: `pytest tests/benchmarks --benchmark-only`."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sim import topology
from sim.collectives import schedule
from sim.collectives.emit import CollectiveCall, emit
from sim.engine import simulate
from sim.lowering.lower import lower
from sim.program import Kind, Occupancy, Program, ProgramBuilder, Waits
from sim.simulate.run import run
from sim.specs import load


def chain(tasks: int) -> Program:
    """One chip: matmul, send, matmul, ... each waiting for the last."""
    builder = ProgramBuilder(["compute", "link"])
    kinds = np.arange(tasks) % 2
    ids = np.arange(tasks)
    builder.add(
        "t", Kind.COMPUTE, np.zeros(tasks), Occupancy(kinds, busy_ps=1000, flight_ps=100 * kinds), Waits([ids - 1])
    )
    return builder.build()


def layers(count: int) -> Program:
    scenario = load.scenario("palm540b_decode_ws2d", [f"engine.layers={count}"])
    return lower(scenario, topology.build(scenario.topology)).program


def all_to_all(machine: str) -> Program:
    built = topology.build(*load.machine(machine))
    builder = ProgramBuilder([*map(str, range(built.chips)), *(link.name for link in built.links)])
    emit(
        builder,
        built,
        CollectiveCall(schedule(built, "all_to_all", ("x", "y", "z"), "dimension_ordered"), 2**20, "all_to_all"),
    )
    return builder.build()


def late_gather(machine: str) -> Program:
    """An all-gather of 64 MiB that chip 0 enters 10 us late: every chip is simulated."""
    built = topology.build(*load.machine(machine))
    builder = ProgramBuilder([*map(str, range(built.chips)), *(link.name for link in built.links)])
    chips = np.arange(built.chips)
    late = builder.add("late", Kind.COMPUTE, chips, Occupancy(chips, busy_ps=np.where(chips == 0, 10**7, 0)))
    emit(builder, built, CollectiveCall(schedule(built, "all_gather", ("x", "y", "z")), 2.0**26, "all_gather"), [late])
    return builder.build()


PROGRAMS = {
    "chain of 200,000 tasks": lambda: chain(200_000),
    "one layer, 64 chips": lambda: layers(1),
    "118 layers, 64 chips": lambda: layers(118),
    "all-gather with a straggler, 4,096 chips": lambda: late_gather("tpu_v4_16x16x16"),
    "dimension-ordered all-to-all, 512 chips": lambda: all_to_all("tpu_v4_8x8x8"),
}


@pytest.mark.parametrize("kernel", ["simpy", "compiled"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_engine(benchmark, name: str, kernel: str) -> None:
    if kernel == "compiled":
        pytest.importorskip("numba")
    program = PROGRAMS[name]()
    benchmark.pedantic(simulate, [program, kernel], rounds=3, warmup_rounds=1)
    benchmark.extra_info["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    benchmark.extra_info["tasks"] = len(program)
    benchmark.extra_info["tasks_per_s"] = round(len(program) / benchmark.stats.stats.min)


def test_lowering(benchmark) -> None:
    scenario = load.scenario("palm540b_decode_ws2d")
    machine = topology.build(scenario.topology)
    benchmark.pedantic(lower, [scenario, machine], rounds=3)


MACHINES = {
    1: "topology.axes={x: {size: 1, wrap: false}, y: {size: 1, wrap: false}, z: {size: 1, wrap: false}}",
    64: "topology=tpu_v4_4x4x4",
    128: "topology=tpu_v4_8x4x4",
    256: "topology=tpu_v4_4x8x8",
    512: "topology=tpu_v4_8x8x8",
    4096: "topology=tpu_v4_16x16x16",
}
ENGINES = {
    "with shortcuts": ("auto", "simpy"),
    "every task, SimPy": ("off", "simpy"),
    "every task, compiled": ("off", "compiled"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("chips", MACHINES)
def test_a_step(benchmark, chips: int, engine: str) -> None:
    """8 layers of PaLM 62B, since 4,096 chips do not divide PaLM 540B's d_model; every task of up to 512 chips."""
    shortcuts, kernel = ENGINES[engine]
    if kernel == "compiled":
        pytest.importorskip("numba")
    if shortcuts == "off" and chips > 512:
        pytest.skip("minutes and tens of GiB")
    engines = [f"engine.shortcuts={shortcuts}", f"engine.kernel={kernel}", "engine.layers=8"]
    scenario = load.scenario(
        "palm540b_decode_ws2d", [MACHINES[chips], "model=palm_62b", "workload.batch=4096", *engines]
    )
    done = benchmark.pedantic(run, [scenario], rounds=3, warmup_rounds=1)
    benchmark.extra_info["tasks"] = done.tasks
    benchmark.extra_info["engine_s"] = done.engine_s


GENERATIONS = {
    "PaLM 540B, 64 chips": ("palm540b_decode_ws2d", 64),
    "Llama-3 70B, 8 GPUs": ("llama3_70b_tp8_ladder", 16),
}


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_generation(benchmark, name: str) -> None:
    """2,048 tokens of prompt and 2,048 decode steps, each with the cache as long as it then is."""
    shipped, batch = GENERATIONS[name]
    workload = f"workload={{phase: generate, batch: {batch}, prompt: 2048, generate: 2048, weights: int8}}"
    scenario = load.scenario(shipped, [workload, "sweep=null", "figure=null"])
    done = benchmark.pedantic(run, [scenario], rounds=3, warmup_rounds=1)
    benchmark.extra_info["tasks"] = done.tasks
    benchmark.extra_info["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


COMMANDS = {
    "figures and page": ("run", "palm540b_decode_ws2d"),
    "without figures": ("run", "palm540b_decode_ws2d", "--no-plots"),
    "import alone": ("list", "scenarios"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command(benchmark, name: str, tmp_path: Path) -> None:
    """A command in a process of its own, from its start to its end, after one that fills the caches of byte code.

    To compare two checkouts: PYTHONPATH=CHECKOUT pytest CHECKOUT/tests/benchmarks -k a_command --benchmark-only.
    """
    out = ("--out", str(tmp_path)) if COMMANDS[name][0] == "run" else ()
    line = [sys.executable, "-m", "sim", *COMMANDS[name], *out]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    used_s = []

    def run_once() -> None:
        began = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(line, check=True, capture_output=True, env=environment)
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        used_s.append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)

    benchmark.pedantic(run_once, rounds=5, warmup_rounds=1)
    benchmark.extra_info["processor_s"] = round(statistics.median(used_s[1:]), 3)
