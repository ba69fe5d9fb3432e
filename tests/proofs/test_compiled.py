"""The compiled engine: to the byte what SimPy and the slow oracle say, on random programs and on whole scenarios."""

import numpy as np
import pytest
from hypothesis import given
from msgspec.structs import fields, replace
from support.oracle import oracle
from support.programs import interfering, polling, program, programs

from sim import topology
from sim.engine import MIN_RATE_PPM, compiled, simulate
from sim.errors import DeadlockError
from sim.lowering.lower import lower
from sim.program import Kind, Occupancy, Program, ProgramBuilder, Waits
from sim.specs import load

pytest.importorskip("numba")


def same(p: Program) -> bool:
    return simulate(p, "compiled").times.tobytes() == simulate(p).times.tobytes()


def test_an_empty_program_takes_no_time():
    assert simulate(program([]), "compiled").makespan_ps == 0


@given(programs())
def test_compiled_equals_simpy_and_the_oracle(p: Program):
    times = simulate(p, "compiled").times
    assert list(zip(*(times[name].tolist() for name in ("ready", "start", "free")), strict=True)) == oracle(p)
    assert same(p)


@given(interfering())
def test_with_interference_compiled_equals_simpy_and_the_oracle(p: Program):
    times = simulate(p, "compiled").times
    assert list(zip(*(times[name].tolist() for name in ("ready", "start", "free")), strict=True)) == oracle(p)
    assert same(p)


@given(polling())
def test_with_polling_compiled_equals_simpy_and_the_oracle(p: Program):
    assert compiled.fits_in_64_bits(p, MIN_RATE_PPM)
    times = simulate(p, "compiled").times
    assert list(zip(*(times[name].tolist() for name in ("ready", "start", "free")), strict=True)) == oracle(p)
    assert same(p)


@given(programs(longest=10**6))
def test_more_tasks_than_the_first_slots_hold(p: Program):
    """200 copies side by side, each a little longer: instants by the thousand, all different."""
    copies, resources = 200, len(p.resources)
    k = np.repeat(np.arange(copies, dtype=np.int32), len(p))
    columns = {f.name: getattr(p, f.name) for f in fields(p)}
    tiled = {n: np.tile(c, copies) for n, c in columns.items() if isinstance(c, np.ndarray) and len(c) == len(p)}
    tiled["busy_ps"] = tiled["busy_ps"] + 7919 * k
    tiled["deps"] = np.concatenate([p.deps + i * len(p) for i in range(copies)])
    tiled["dep_offset"] = np.concatenate(([0], np.cumsum(np.tile(np.diff(p.dep_offset), copies))))
    for name, each in (("resource", resources), ("follows", len(p))):
        tiled[name] = np.where(tiled[name] >= 0, tiled[name] + k * each, np.int32(-1))
    assert same(replace(p, resources=p.resources * copies, **tiled))


@pytest.mark.parametrize("settings", [[], ["layout.overlap=none"], ["layout.ffn=weight_gathered_xy"]])
def test_a_scenario_has_the_same_trace(settings):
    scenario = load.scenario("palm540b_decode_ws2d", ["engine.layers=2", *settings])
    assert same(lower(scenario, topology.build(scenario.topology, scenario.stack)).program)


@pytest.mark.parametrize("poll_ps", [[0, 0, 0, 0], [0, 5, 7, 0]])
@pytest.mark.parametrize("slow_ppm", [[0, 0, 0, 0], [500_000, -500_000, 0, 0]])
def test_a_deadlock_says_the_same(poll_ps: list[int], slow_ppm: list[int]):
    """Tasks 1 and 2 wait for each other, looking from time to time or not; nobody gives back what task 0 took."""
    good = program([(1, 0, [0], []), (1, 0, [0], [0]), (1, 0, [0], [1]), (0, 0, [], [])])
    cyclic = replace(
        good,
        deps=np.array([2, 1], dtype=np.int32),
        poll_ps=np.array(poll_ps, dtype=np.int64),
        slows=np.array([1 if ppm else -1 for ppm in slow_ppm], dtype=np.int32),
        slow_ppm=np.array(slow_ppm, dtype=np.int32),
    )
    messages = []
    for kernel in ("simpy", "compiled"):
        with pytest.raises(DeadlockError) as caught:
            simulate(cyclic, kernel)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert messages[0].startswith("deadlock at 1 ps, 2 tasks never start: task 1 t1 (chip 0) waits for 1: task 2 t2")


def test_what_64_bits_cannot_count_is_left_to_simpy():
    """Work is counted in millionths of a picosecond: 10^13 ps of it are 10^19, more than 2^63."""
    p = program([(10**13, 0, [0], []), (0, 5, [], []), (0, 0, [], [1])])
    slow = {"slows": np.array([-1, 0, 0], dtype=np.int32), "slow_ppm": np.array([0, 500_000, -500_000], dtype=np.int32)}
    slowed = replace(p, **slow)
    assert compiled.fits_in_64_bits(p, MIN_RATE_PPM)
    assert not compiled.fits_in_64_bits(slowed, MIN_RATE_PPM)
    assert simulate(slowed, "compiled").makespan_ps == 10**13 + 3  # 5 ps at half the rate


def slowed_by_many(sends: int, poll_ps: int) -> Program:
    """One long task, and sends one after the other that each slow it: an instant each to look, to free and to end, and
    one at which the long task would be done."""
    builder = ProgramBuilder(["compute", "link"])
    builder.add("long", Kind.COMPUTE, 0, Occupancy(0, busy_ps=1000 * sends))
    before = np.array([-1])
    for _ in range(sends):
        before = builder.add(
            "send",
            Kind.SEND,
            0,
            Occupancy(1, busy_ps=7, flight_ps=2, slows=0, slow_ppm=900),
            Waits([before], poll_ps=poll_ps),
        )
    return builder.build()


@pytest.mark.parametrize("poll_ps", [0, 5])
@pytest.mark.parametrize("sends", [1, 2, 100, 1000])
def test_every_change_of_a_rate_may_book_an_instant_of_its_own(sends: int, poll_ps: int):
    assert same(slowed_by_many(sends, poll_ps))


@given(interfering(longest=10**9))
def test_long_tasks_whose_rate_changes_often(p: Program):
    """Durations that hardly ever coincide: nearly every booking is an instant of its own."""
    assert same(p)
