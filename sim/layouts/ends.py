"""What comes before the first layer and after the last: embedding, final norm, logits, the next token."""

from __future__ import annotations

from sim.layouts.dataflow import Dataflow, V
from sim.partition import Partition


def embedding(flow: Dataflow[V], at: Partition) -> V:
    """Each chip looks up the rows it stores; the sum over all chips, scattered, is the residual stream B_gLE_er."""
    every = "".join(at.g + at.e + at.f)
    x = flow.embed(flow.weight("embedding", f"V_{every} E", f"V_{every} E"), "embedding")
    (x,) = flow.reduce_scatter([(x, "B")], at.g, "embedding")
    (x,) = flow.reduce_scatter([(x, "E")], at.e + at.split, "embedding")
    (x,) = flow.all_reduce([x], at.whole, "embedding")
    return x


def unembedding(flow: Dataflow[V], x: V, at: Partition, *, tied: bool) -> tuple[V, V]:
    """(logits BV, next token) of the last position: gathered to every chip, times its part of the LM head.

    Args:
        tied: the LM head is the embedding's table, else a weight of its own.
    """
    every = "".join(at.g + at.e + at.f)
    (y,) = flow.all_gather([(flow.last_position(x), "E")], at.e + at.split, "last position")
    (y,) = flow.all_gather([(y, "B")], at.g, "last position")
    y = flow.scale(y, flow.mean_square(y, "E", "final_norm"), flow.weight("final_norm", "E", "E"), "final_norm")
    head = flow.weight("embedding" if tied else "lm_head", f"V_{every} E", f"V_{every} E")
    (logits,) = flow.matmul(y, [head], "logits")
    return logits, flow.sample(logits, "token")
