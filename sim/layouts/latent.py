"""Multi-head latent attention (DeepSeek-V2 2024, section 2.1): keys and values of all heads from one cached vector.

The chips of a group hold some heads each, and all of the latent vectors: every one of them projects and caches these.
Plain, keys and values are expanded for all heads; absorbed, the expansion is a matmul of queries and of outputs, and
attention reads the cached vectors alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sim.errors import LayoutError
from sim.layouts.dataflow import V
from sim.specs.uses import named

if TYPE_CHECKING:
    from sim.layouts.layer import Layer


def project_latents(layer: Layer[V], y: V) -> Callable[[], V]:
    """Projects normalised y and appends it to the cache, and returns what attends: the output BLHU, with the chip's
    heads.

    Raises:
        LayoutError: attention over the batch, or heads that d_model's axes split as well.
    """
    uses, flow, part = layer.uses, layer.flow, layer.part
    if uses.d_model or layer.attention_over != "heads":
        rule = "latent attention requires attention over heads and whole d_model"
        raise LayoutError(rule, where="layout", hint="a preset without d_model in its uses, layout.attention: heads")
    latent, heads = layer.model.latent, f"H_{named(uses.heads)}"
    assert latent is not None
    queries = "E" if latent.q_rank is None else "A"
    names = ["w_kv_a", "w_k_rope"] if latent.q_rank is None else ["w_q_a", "w_kv_a", "w_k_rope"]
    shapes = {"w_q_a": "E A", "w_kv_a": "E C", "w_k_rope": "E R"}
    down = [(flow.weight(name, shapes[name], shapes[name]), shapes[name][-1]) for name in names]
    y, products = layer.project(y, uses.heads, down, "latents")
    if latent.q_rank is None:
        (c, rope), q = products, y
    else:
        q, c, rope = products
        _, q = flow.norm(q, (), flow.weight("q_norm", "A", "A"), "q_norm" + part, "A")
    _, c = flow.norm(c, (), flow.weight("kv_norm", "C", "C"), "kv_norm" + part, "C")
    up = [
        flow.weight(f"w_q_{name}", *_kept(f"{queries} {heads} {dim}")) for name, dim in (("plain", "N"), ("rope", "R"))
    ]
    plain, q_rope = flow.matmul(q, up, "q" + part)
    q_rope, c, rope = flow.to_cache(q_rope, c, rope, "rotary and cache" + part)
    w_k, w_v = (flow.weight(name, *_kept(f"C {heads} {dim}")) for name, dim in (("w_k", "N"), ("w_v", "U")))
    if uses.positions:
        rule = "latent attention over positions that chips share is not supported"
        raise LayoutError(rule, where="layout.uses.context", hint="axes of heads, for the cache's positions")
    if not layer.absorbs:
        if uses.cached_positions:
            raise LayoutError("a cache that chips share requires absorbed latent attention", where="layout.latent")
        return lambda: flow.latent_attention((plain, q_rope), (c, rope), (w_k, w_v), "attention" + part, layer.cache)
    (plain,) = flow.grouped_matmul(plain, [w_k], "H", "q by key expansion" + part)
    plain, q_rope = flow.all_gather([(plain, "H"), (q_rope, "H")], uses.cached_positions, "q" + part)

    def attend() -> V:
        out = flow.latent_attention((plain, q_rope), (c, rope), (), "attention" + part, layer.cache)
        return flow.grouped_matmul(out, [w_v], "H", "value expansion" + part)[0]

    return attend


def _kept(notation: str) -> tuple[str, str]:
    """Returns the sharding in use and as stored of a weight that is never gathered: these are small."""
    return notation, notation
