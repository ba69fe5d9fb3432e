"""The engine rule: small stories by hand, then properties over random programs and equality with the slow oracle."""

import itertools
import sys
import types
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.oracle import oracle
from support.programs import Row, interfering, message, polling, program, programs

from sim.engine import compiled, simulate
from sim.errors import DeadlockError, InputError
from sim.program import Program


def starts(rows: Sequence[Row]) -> list[int]:
    return simulate(program(rows)).times["start"].tolist()


def test_empty_program_takes_no_time():
    assert simulate(program([])).makespan_ps == 0


def test_a_task_flies_without_holding_its_resource():
    # The first holds r0 for 10 and flies 5; the second takes r0 at 10; the third waits for the first's end at 15.
    assert starts([(10, 5, [0], []), (3, 0, [0], []), (1, 0, [1], [0])]) == [0, 10, 15]


def test_queue_order_is_ready_time_then_task_id():
    # Both wait for r0, busy until 10. Task 2 was ready at 1 (after task 1), task 3 at 0: the earlier ready goes first.
    assert starts([(10, 0, [0], []), (1, 0, [1], []), (4, 0, [0], [1]), (4, 0, [0], [])]) == [0, 0, 14, 10]


@pytest.mark.parametrize("kernel", ["simpy", "compiled"])
def test_a_message_alone_takes_all_latencies_and_its_bytes_on_the_slowest_link(kernel):
    """Its head is there at 0, 2, 5. With 10 on the slowest link its last byte has passed at 10 and three flights."""
    for busy in ([4, 10, 4], [10, 4, 10], [10, 4, 4], [4, 4, 10]):
        trace = simulate(message(busy, [2, 3, 1]), kernel)
        assert trace.times["start"].tolist() == [0, 2, 2 + 3]
        assert trace.makespan_ps == 2 + 3 + 1 + 10


def test_a_link_serves_others_while_a_message_waits_for_the_next():
    """r1 is busy until 20. The message leaves r0 at 4, where task 2, ready after it, goes on, and takes r1 at 20."""
    rows: list[Row] = [(20, 0, [1], []), (4, 1, [0], []), (5, 0, [0], []), (4, 0, [1], [])]
    trace = simulate(program(rows, follows={3: 1}))
    assert trace.times["start"].tolist() == [0, 0, 4, 20]
    assert trace.times["ready"].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("kernel", ["simpy", "compiled"])
def test_a_head_that_takes_no_time_to_the_next_link_comes_in_the_next_round(kernel):
    """Task 2 is ready at 0 and holds r1 first, although the message has a lesser id: it is there one round later."""
    rows: list[Row] = [(4, 0, [0], []), (4, 0, [1], []), (3, 0, [1], [])]
    assert simulate(program(rows, follows={1: 0}), kernel).times["start"].tolist() == [0, 3, 0]


@pytest.mark.parametrize("kernel", ["simpy", "compiled"])
def test_a_message_cannot_go_on_from_a_resource_whose_rate_changes(kernel):
    p = message([4, 4], [1, 1], [(5, 0, [], [])])
    slows, ppm = np.array([0, -1, -1], dtype=np.int32), np.array([5, 0, 0], dtype=np.int32)
    with pytest.raises(ValueError, match="cannot follow one"):
        simulate(replace(p, slows=slows, slow_ppm=ppm), kernel)


def test_arrivals_of_one_instant_apply_before_anything_starts():
    # At 10 task 0 frees r0 and task 1 ends, which readies task 2 (id below task 3): both queue at 10, 2 goes first.
    rows: list[Row] = [(10, 0, [0], []), (10, 0, [1], []), (5, 0, [0], [1]), (5, 0, [0], [0])]
    assert starts(rows) == [0, 0, 10, 15]


def test_a_resourceless_task_of_no_time_passes_its_instant_on():
    # Task 1 is a join: task 2 is ready at 10, not an instant later, and beats task 3, ready at 10 with a higher id.
    rows: list[Row] = [(10, 0, [0], []), (0, 0, [], [0]), (5, 0, [1], [1]), (5, 0, [1], [0])]
    assert starts(rows) == [0, 10, 10, 15]


def test_deadlock_names_the_waiting_tasks():
    good = program([(1, 0, [0], []), (1, 0, [0], [0]), (1, 0, [0], [1])])
    cyclic = replace(good, deps=np.array([2, 1], dtype=np.int32))
    with pytest.raises(DeadlockError, match=r"2 tasks never start: task 1 t1 .* waits for 1: task 2 t2"):
        simulate(cyclic)


def rows_of(p: Program) -> list[tuple[int, int, int]]:
    times = simulate(p).times
    return list(zip(*(times[name].tolist() for name in ("ready", "start", "free")), strict=True))


@given(programs())
def test_engine_equals_the_slow_oracle(p: Program):
    assert rows_of(p) == oracle(p)


@given(interfering())
def test_with_interference_the_engine_equals_the_slow_oracle(p: Program):
    assert rows_of(p) == oracle(p)


@given(polling())
def test_with_polling_the_engine_equals_the_slow_oracle(p: Program):
    assert rows_of(p) == oracle(p)


def test_a_polling_task_looks_from_the_end_of_its_first_dependency_on():
    """Task 2 looks at 10, 17, 24, ...: task 1 has ended at 20, so it is ready at 24. Task 3 waits for nothing more."""
    p = program([(10, 0, [0], []), (20, 0, [1], []), (5, 0, [2], [0, 1]), (5, 0, [3], [1, 0])])
    looking = replace(p, poll_ps=np.array([0, 0, 7, 7], dtype=np.int64))
    assert simulate(looking).times["start"].tolist() == [0, 0, 24, 20]


def test_a_collective_slows_the_compute_of_its_chip_while_it_is_in_progress():
    """100 ps of work on r0. From 20, when task 1 starts, to 60, when task 3 ends, a quarter of the rate is gone.

    20 + 40 x 3/4 = 50 of the work is done at 60, so the end is at 110. Task 2 keeps r1, which nothing slows, 10 ps.
    """
    rows: list[Row] = [(100, 0, [0], []), (0, 30, [], [4]), (10, 0, [1], [1]), (0, 0, [], [2]), (20, 0, [2], [])]
    p = program(rows)
    slowing = replace(
        p,
        slows=np.array([-1, 0, -1, 0, -1], dtype=np.int32),
        slow_ppm=np.array([0, 250_000, 0, -250_000, 0], dtype=np.int32),
    )
    assert simulate(p).times["free"].tolist() == [100, 20, 60, 60, 20]
    assert simulate(slowing).times["free"].tolist() == [110, 20, 60, 60, 20]
    for yields, free in ((0, 100), (500_000, 105), (3_000_000, 130)):  # nothing, an eighth or three quarters is lost
        other = replace(slowing, yields_ppm=np.array([yields, 0, 0, 0, 0], dtype=np.int32))
        assert simulate(other).times["free"].tolist() == [free, 20, 60, 60, 20]


@given(programs())
def test_no_two_tasks_hold_a_resource_at_once(p: Program):
    times = simulate(p).times
    for resource in range(len(p.resources)):
        holders = np.flatnonzero(p.resource == resource).tolist()
        spans = sorted((int(times["start"][t]), int(times["free"][t])) for t in holders)
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


@given(programs())
def test_dependencies_are_respected_and_ready_is_the_last_of_them(p: Program):
    times = simulate(p).times
    for task in range(len(p)):
        before = int(p.follows[task])
        if before >= 0:
            assert times["ready"][task] == times["start"][before] + p.flight_ps[before]
            assert times["end"][task] == max(times["free"][task], times["end"][before]) + p.flight_ps[task]
        else:
            assert times["end"][task] == times["free"][task] + p.flight_ps[task]
            assert times["ready"][task] == max((int(times["end"][d]) for d in p.dependencies(task)), default=0)
        assert times["start"][task] >= times["ready"][task]


@given(programs())
def test_makespan_is_at_least_the_critical_path_and_the_busiest_resource(p: Program):
    trace = simulate(p)
    longest: list[int] = []
    for task in range(len(p)):
        before = max((longest[d] for d in p.dependencies(task)), default=0)
        if (led := int(p.follows[task])) >= 0:
            before = longest[led] - int(p.busy_ps[task])
        longest.append(before + int(p.busy_ps[task] + p.flight_ps[task]))
    load = [int(p.busy_ps[p.resource == r].sum()) for r in range(len(p.resources))]
    assert trace.makespan_ps >= max(*longest, *load)


@given(programs(), st.integers(2, 1000))
def test_scaling_every_duration_scales_every_time(p: Program, k: int):
    slow = replace(p, busy_ps=p.busy_ps * k, flight_ps=p.flight_ps * k)
    fast, slowed = simulate(p).times, simulate(slow).times
    assert all((slowed[field] == fast[field] * k).all() for field in ("ready", "start", "free", "end"))


@given(programs())
def test_two_runs_give_the_same_bytes(p: Program):
    assert simulate(p).times.tobytes() == simulate(p).times.tobytes()


@pytest.mark.parametrize("kernel", ["simpy", "compiled"])
@pytest.mark.parametrize(
    "rows",
    [
        [(2**62, 0, [0], []), (2**62, 0, [0], [0])],
        [(0, 2**62, [], []), (0, 2**62, [], [0])],
        [(2**62, 2**62, [0], [])],
        [(2**62, 0, [0], []), (2**62, 0, [0], [0]), (2**62, 0, [0], [1]), (2**62, 0, [0], [2])],
    ],
)
def test_what_ends_later_than_the_clock_counts_is_refused(rows, kernel):
    """The clock has 63 bits: 2**62 + 2**62 ps do not fit."""
    with pytest.raises(OverflowError):
        simulate(program(rows), kernel)


def test_the_last_picosecond_of_the_clock_is_counted():
    assert simulate(program([(2**62, 0, [0], []), (2**62 - 1, 0, [0], [0])])).makespan_ps == 2**63 - 1


def test_a_slowed_task_that_ends_later_than_the_clock_counts_is_refused():
    """At a hundredth of the rate 2**57 ps of work take 100 x 2**57 > 2**63 ps."""
    p = program([(2**57, 0, [0], []), (0, 0, [], [])])
    slows, ppm = np.array([-1, 0], dtype=np.int32), np.array([0, 999_999], dtype=np.int32)
    with pytest.raises(OverflowError):
        simulate(replace(p, slows=slows, slow_ppm=ppm))


# --- numba that is not there, or does not load -----------------------------------------------------------------------


class _Broken(types.ModuleType):
    """An installation that fails however it pleases once something is asked of it."""

    def __init__(self, error: Exception) -> None:
        super().__init__("numba")
        self.error = error

    def __getattr__(self, name: str) -> object:
        raise self.error


@pytest.fixture
def numba(monkeypatch: pytest.MonkeyPatch):
    """Put something in the place of numba."""

    def put(module: types.ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "numba", module)
        monkeypatch.delitem(sys.modules, "sim.engine.kernel", raising=False)
        compiled.why_unavailable.cache_clear()

    yield put
    monkeypatch.undo()
    compiled.why_unavailable.cache_clear()


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (
            None,
            r"engine.kernel: the compiled engine requires numba, got 'compiled'; pip install 'collective-sim\[fast\]'",
        ),
        (
            _Broken(RuntimeError("built for numpy 1")),
            r"requires numba, which fails to load: RuntimeError: built for numpy 1, got",
        ),
        (_Broken(OSError("libllvm.so: no such file")), r"requires numba, which fails to load: OSError: libllvm.so"),
        (types.ModuleType("numba"), r"requires numba, which fails to load: ImportError: cannot import name"),
    ],
)
def test_without_a_numba_that_loads_compiled_is_refused_and_auto_is_simpy(
    numba, monkeypatch: pytest.MonkeyPatch, module: types.ModuleType | None, message: str
):
    numba(module)
    own = program([(10, 5, [0], []), (3, 0, [0], [])])
    with pytest.raises(InputError, match=message):
        simulate(own, "compiled")
    monkeypatch.setattr("sim.engine.dispatch.COMPILED_FROM", 0)
    assert simulate(own, "auto").times.tobytes() == simulate(own, "simpy").times.tobytes()
