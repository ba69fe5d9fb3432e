"""Programs by hand, and random ones: with messages, with interference, with tasks that poll."""

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st
from msgspec.structs import replace

from sim.program import Kind, Occupancy, Program, ProgramBuilder, Waits

Row = tuple[int, int, Sequence[int], Sequence[int]]
"""(busy, flight, the resource if any, dependencies)"""


def program(rows: Sequence[Row], resources: int = 4, follows: dict[int, int] | None = None) -> Program:
    """Tasks in order; `follows` says which follow which, instead of their dependencies."""
    builder = ProgramBuilder([f"r{i}" for i in range(resources)])
    for i, (busy, flight, held, deps) in enumerate(rows):
        before = (follows or {}).get(i, -1)
        builder.add(
            f"t{i}",
            Kind.COMPUTE,
            0,
            Occupancy(held[0] if held else -1, busy_ps=busy, flight_ps=flight),
            Waits([np.array([d]) for d in deps if before < 0], follows=before),
        )
    return builder.build()


def message(busy: Sequence[int], flight: Sequence[int], before: Sequence[Row] = ()) -> Program:
    """A message over links r0, r1, ... after other tasks."""
    hops = [(b, f, [i], []) for i, (b, f) in enumerate(zip(busy, flight, strict=True))]
    first = len(before)
    return program([*before, *hops], follows={first + i: first + i - 1 for i in range(1, len(hops))})


@st.composite
def programs(draw: st.DrawFn, longest: int = 6) -> Program:
    rows: list[Row] = []
    follows: dict[int, int] = {}
    for i in range(draw(st.integers(1, 24))):
        held = draw(st.lists(st.integers(0, 3), max_size=1))
        deps = draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        rows.append((draw(st.integers(0, longest)), draw(st.integers(0, longest)), held, deps))
        leaders = [task for task in range(i) if task not in follows.values()]
        if leaders and draw(st.booleans()):
            follows[i] = draw(st.sampled_from(leaders))
    return program(rows, follows=follows)


@st.composite
def interfering(draw: st.DrawFn, longest: int = 20) -> Program:
    """A program in which pairs of tasks, the second after the first, slow a resource from one to the other."""
    p = draw(programs(longest))
    slows, ppm = np.full(len(p), -1, dtype=np.int32), np.zeros(len(p), dtype=np.int32)
    for second in range(len(p)):
        firsts = [int(d) for d in p.dependencies(second) if ppm[d] == 0]
        if not firsts or ppm[second] or not draw(st.booleans()):
            continue
        fixed = set(p.resource[p.follows[p.follows >= 0]].tolist())
        changing = [resource for resource in range(4) if resource not in fixed]
        if not changing:
            break
        slows[[firsts[0], second]] = draw(st.sampled_from(changing))
        taken = draw(st.sampled_from([1, 100_000, 333_333, 500_000, 999_999, 1_000_000]))
        ppm[firsts[0]], ppm[second] = taken, -taken
    yields = [draw(st.sampled_from([0, 1_000_000, 1_000_000, 333_333, 6_300_000])) for _ in range(len(p))]
    return replace(p, slows=slows, slow_ppm=ppm, yields_ppm=np.array(yields, dtype=np.int32))


@st.composite
def polling(draw: st.DrawFn) -> Program:
    """A program some of whose tasks look for their dependencies only from time to time; some slow resources down."""
    p = draw(st.one_of(programs(longest=20), interfering()))
    return looking(draw, p)


def looking(draw: st.DrawFn, p: Program) -> Program:
    period = [draw(st.sampled_from([0, 0, 1, 3, 7])) for _ in range(len(p))]
    return replace(p, poll_ps=np.array(period, dtype=np.int64))
