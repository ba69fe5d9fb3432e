"""ProgramBuilder: blocks of tasks, and the exact repetition of a block."""

import numpy as np
import pytest

from sim.program import Kind, Program, ProgramBuilder


def layers(count: int, *, repeated: bool) -> Program:
    """`count` layers on two chips: a matmul after the previous layer's send, then a send after both matmuls."""
    builder = ProgramBuilder(["c0", "c1", "l0", "l1"])
    chips = np.arange(2)
    before = builder.add("embed", Kind.COMPUTE, chips, busy_ps=7, resource=chips)
    marks = []
    for layer in range(2 if repeated else count):
        marks.append(len(builder))
        builder.layer = layer
        matmul = builder.add("matmul", Kind.COMPUTE, chips, busy_ps=[10, 11], resource=chips, deps=[before], flops=3)
        before = builder.add(
            "send",
            Kind.SEND,
            chips,
            peer=1 - chips,
            busy_ps=5,
            flight_ps=1,
            resource=2 + chips,
            deps=[matmul, matmul[::-1]],
            bytes=64,
            collective=builder.new_collective(),
        )
    if repeated:
        before = before + builder.repeat(marks[1], len(builder), count - 2)
    builder.layer = -1
    builder.add("head", Kind.COMPUTE, chips, busy_ps=2, resource=chips, deps=[before])
    return builder.build()


def test_repeating_a_layer_gives_the_same_program_as_writing_all_layers():
    tiled, written = layers(5, repeated=True), layers(5, repeated=False)
    for name in Program.__dataclass_fields__:
        assert np.array_equal(getattr(tiled, name), getattr(written, name)), name


def test_only_the_last_block_can_be_repeated():
    builder = ProgramBuilder(["c"])
    builder.add("a", Kind.COMPUTE, [0, 0], resource=np.array([0, 0]))
    with pytest.raises(ValueError, match="only the last block"):
        builder.repeat(0, 1, 3)


def test_a_block_that_reaches_further_back_cannot_be_repeated():
    builder = ProgramBuilder(["c"])
    first = builder.add("a", Kind.COMPUTE, [0])
    builder.add("b", Kind.COMPUTE, [0])
    builder.add("c", Kind.COMPUTE, [0], deps=[first])
    with pytest.raises(ValueError, match="more than one block back"):
        builder.repeat(2, 3, 1)


def test_minus_one_means_no_dependency():
    builder = ProgramBuilder(["c"])
    a = builder.add("a", Kind.COMPUTE, [0])
    builder.add("b", Kind.COMPUTE, [0, 0], deps=[np.array([-1, 0]), np.array([-1, -1])])
    p = builder.build()
    assert [p.dependencies(t).tolist() for t in range(3)] == [[], [], a.tolist()]
