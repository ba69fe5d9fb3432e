"""Two policies of dynamic batching."""

from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from sim.lowering.pipeline.batching import Batch, by_cost, fifo, total


def cost(length: int, sequences: int) -> float:
    """A launch of 10, and every padded token 1."""
    return 10 + length * sequences


def test_fifo_keeps_the_order_of_arrival():
    assert fifo([5, 1, 9, 2, 4], 2) == ((0, 1), (2, 3), (4,))


def test_short_requests_do_not_wait_in_long_batches():
    """Lengths 1, 100, 2, 101. Two and two by length: 10 + 4 + 10 + 202. In order of arrival: 10 + 200 + 10 + 202."""
    lengths = [1, 100, 2, 101]
    batches = by_cost(lengths, 4, cost)
    assert batches == ((0, 2), (1, 3))
    assert total(batches, lengths, cost) == 226
    assert total(fifo(lengths, 2), lengths, cost) == 422


def partitions(items: Batch, most: int) -> list[tuple[Batch, ...]]:
    """Every way to cut the items, in this order, into batches."""
    if not items:
        return [()]
    return [
        (items[:size], *rest) for size in range(1, min(most, len(items)) + 1) for rest in partitions(items[size:], most)
    ]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=5), st.integers(1, 4))
def test_no_other_batches_cost_less(lengths: list[int], most: int):
    orders = permutations(range(len(lengths)))
    least = min(total(each, lengths, cost) for order in orders for each in partitions(order, most))
    batches = by_cost(lengths, most, cost)
    assert total(batches, lengths, cost) == least
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
