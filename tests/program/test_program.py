"""ProgramBuilder: blocks of tasks, and the exact repetition of a block."""

from typing import Any

import numpy as np
import pytest

from sim.errors import InputError
from sim.program import Kind, Labels, Occupancy, Program, ProgramBuilder, Waits


def layers(count: int, *, repeated: bool) -> Program:
    """`count` layers on two chips: a matmul after the previous layer's send, then a send after both matmuls."""
    builder = ProgramBuilder(["c0", "c1", "l0", "l1"])
    chips = np.arange(2)
    before = builder.add("embed", Kind.COMPUTE, chips, Occupancy(chips, busy_ps=7))
    marks = []
    for layer in range(2 if repeated else count):
        marks.append(len(builder))
        builder.layer = layer
        matmul = builder.add(
            "matmul", Kind.COMPUTE, chips, Occupancy(chips, busy_ps=[10, 11]), Waits([before]), Labels(flops=3)
        )
        before = builder.add(
            "send",
            Kind.SEND,
            chips,
            Occupancy(2 + chips, busy_ps=5, flight_ps=1),
            Waits([matmul, matmul[::-1]]),
            Labels(peer=1 - chips, bytes=64, collective=builder.new_collective()),
        )
    if repeated:
        before = before + builder.repeat(marks[1], count - 2)
    builder.layer = -1
    builder.add("head", Kind.COMPUTE, chips, Occupancy(chips, busy_ps=2), Waits([before]))
    return builder.build()


def test_repeating_a_layer_gives_the_same_program_as_writing_all_layers():
    tiled, written = layers(5, repeated=True), layers(5, repeated=False)
    for name in Program.__struct_fields__:
        assert np.array_equal(getattr(tiled, name), getattr(written, name)), name


def test_the_first_block_repeats_nothing():
    builder = ProgramBuilder(["c"])
    builder.add("a", Kind.COMPUTE, [0, 0], Occupancy(np.array([0, 0])))
    with pytest.raises(ValueError, match="do not repeat"):
        builder.repeat(0, 3)


def test_a_block_that_reaches_further_back_repeats_nothing():
    builder = ProgramBuilder(["c"])
    first = builder.add("a", Kind.COMPUTE, [0])
    builder.add("a", Kind.COMPUTE, [0], waits=Waits([first]))
    assert builder.repeats(1)
    builder.add("a", Kind.COMPUTE, [0], waits=Waits([first]))
    assert not builder.repeats(2)
    with pytest.raises(ValueError, match="do not repeat"):
        builder.repeat(2, 1)


SAME: dict[str, Any] = {
    "op": "a",
    "kind": Kind.COMPUTE,
    "chip": [0],
    "occupancy": Occupancy(0, busy_ps=3),
    "labels": Labels(flops=2.0),
}


def two_blocks(change: dict[str, Any]) -> ProgramBuilder:
    """Two blocks of two tasks, each waiting for the one before; the last task differs from its like by `change`."""
    builder = ProgramBuilder(["c", "d"])
    for first in (0, 2):
        builder.add(**SAME, waits=Waits([np.array([first - 1])]))
        builder.add(**SAME | {"waits": Waits([np.array([first])])} | (change if first else {}))
    return builder


@pytest.mark.parametrize(
    "change",
    [
        {"op": "b"},
        {"kind": Kind.COPY},
        {"chip": [1]},
        {"occupancy": Occupancy(0, busy_ps=4)},
        {"occupancy": Occupancy(0, busy_ps=3, flight_ps=1)},
        {"occupancy": Occupancy(0, busy_ps=3, slows=0, slow_ppm=5)},
        {"occupancy": Occupancy(1, busy_ps=3)},
        {"occupancy": Occupancy(busy_ps=3)},
        {"labels": Labels(flops=1.0)},
        {"labels": Labels(flops=2.0, bytes=1.0)},
        {"labels": Labels(flops=2.0, peer=1)},
        {"labels": Labels(flops=2.0, collective=7)},
        {"waits": Waits([np.array([2])], poll_ps=1)},
        {"waits": Waits([np.array([1])])},
        {"waits": Waits()},
    ],
    ids=str,
)
def test_a_block_with_as_many_tasks_that_differ_in_anything_repeats_nothing(change):
    assert two_blocks({}).repeats(2)
    assert not two_blocks(change).repeats(2)


def test_minus_one_means_no_dependency():
    builder = ProgramBuilder(["c"])
    a = builder.add("a", Kind.COMPUTE, [0])
    builder.add("b", Kind.COMPUTE, [0, 0], waits=Waits([np.array([-1, 0]), np.array([-1, -1])]))
    p = builder.build()
    assert [p.dependencies(t).tolist() for t in range(3)] == [[], [], a.tolist()]


def test_a_program_of_very_many_tasks_is_refused(monkeypatch):
    monkeypatch.setattr("sim.program.builder.MOST_TASKS", 10)
    for tasks, grow in ((11, lambda b: b.add("a", Kind.COMPUTE, np.zeros(11))), (12, lambda b: b.repeat(1, 10))):
        builder = ProgramBuilder(["c"])
        for _ in range(0 if tasks == 11 else 2):
            builder.add("a", Kind.COMPUTE, [0])
        with pytest.raises(InputError, match="at most 10 tasks"):
            grow(builder)
