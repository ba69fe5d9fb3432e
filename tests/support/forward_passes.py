"""Forward passes by the NumPy executor, and the same written plainly, rank by rank."""

from collections.abc import Iterator, Sequence
from math import prod
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.layouts import forward
from sim.layouts.layer import Layer
from sim.layouts.numpy_executor import NumpyExecutor
from sim.layouts.residual import SCHEMES
from sim.specs.uses import Uses
from sim.topology import Topology
from support import transformer
from support.machines import torus

PASSES = (3, 1, 1)
"""New positions of a prefill and two decode steps."""


def plain_model(ffn: str, heads: int, kv_heads: int) -> Any:
    """What a layer asks of a dense model."""
    more = {"experts": None, "latent": None, "window": None, "window_of": lambda layer: None}
    return SimpleNamespace(ffn=ffn, heads=heads, kv_heads=kv_heads, **more)


class Ranks:
    """Tensor-parallel ranks written plainly: each with its heads, its part of d_ff and its own cache and residual."""

    def __init__(self, layers, ends, tp: int, kv_heads: int) -> None:
        self.layers, self.ends, self.tp, self.kv_heads = layers, ends, tp, kv_heads
        self.cache: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def A(self, layer: int, rank: int, r: np.ndarray) -> np.ndarray:  # noqa: N802
        """Rank's part of the attention, its norm included: the sum over ranks is the whole."""
        w = self.layers[layer]
        y = transformer.rms_norm(r, w["norm"])
        own = w["w_q"].shape[1] // self.tp
        heads = range(rank * own, (rank + 1) * own)
        k, v = np.tensordot(y, w["w_k"], 1), np.tensordot(y, w["w_v"], 1)
        if (layer, rank) in self.cache:
            k, v = (np.concatenate(pair, 1) for pair in zip(self.cache[layer, rank], (k, v), strict=True))
        self.cache[layer, rank] = (k, v)
        out = np.zeros_like(r)
        group = w["w_q"].shape[1] // self.kv_heads
        for h in heads:
            q, keys, values = y @ w["w_q"][:, h], k[:, :, h // group], v[:, :, h // group]
            scores = np.einsum("blq,bcq->blc", q, keys) / np.sqrt(q.shape[-1])
            new, length = q.shape[1], keys.shape[1]
            for i in range(new):
                scores[:, i, length - new + i + 1 :] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            out += np.einsum("blc,bcq->blq", p / p.sum(-1, keepdims=True), values) @ w["w_o"][h]
        return out

    def M(self, layer: int, rank: int, r: np.ndarray, norm: str = "ffn_norm") -> np.ndarray:  # noqa: N802
        w = self.layers[layer]
        f = w["w_up"].shape[1] // self.tp
        own = slice(rank * f, (rank + 1) * f)
        part = {"w_up": w["w_up"][:, own], "w_down": w["w_down"][own]}
        if "w_gate" in w:
            part["w_gate"] = w["w_gate"][:, own]
        return transformer.ffn(transformer.rms_norm(r, w[norm]), part)

    def logits(self, tokens: np.ndarray, scheme: str, ladder_layers: int = 0, cuts: Sequence[int] = ()) -> list[Any]:
        """[ranks] logits of the last position, by the recurrences of the paper.

        Between stages, before the layers `cuts`, ladder adds what it would have added later.
        """
        ranks = range(self.tp)
        r = [self.ends["embedding"][tokens] for _ in ranks]

        def all_reduce(part, residual):
            total = sum(part(rank, residual[rank]) for rank in ranks)
            return [total for _ in ranks]

        a = m = [np.zeros_like(r[0]) for _ in ranks]
        count = len(self.layers)
        for i in range(count):
            if i in cuts:
                r = plus(plus(r, a), m)
                a = m = [np.zeros_like(r[0]) for _ in ranks]

            def A(rank, x, i=i):  # noqa: N802
                return self.A(i, rank, x)

            def M(rank, x, i=i):  # noqa: N802
                return self.M(i, rank, x)

            if scheme == "ladder" or (scheme == "hybrid" and i >= count - ladder_layers):
                r = plus(r, a)
                a = all_reduce(A, r)
                r = plus(r, m)
                m = all_reduce(M, r)
            elif scheme == "hybrid":  # standard, but the last m is added only where ladder adds it
                r = plus(r, m)
                r = plus(r, all_reduce(A, r))
                m = all_reduce(M, r)
            elif scheme == "standard":
                r = plus(r, all_reduce(A, r))
                r = plus(r, all_reduce(M, r))
            elif scheme == "parallel":
                r = plus(r, all_reduce(lambda rank, x, i=i: self.A(i, rank, x) + self.M(i, rank, x, "norm"), r))
            else:
                every = {"desync2": 1, "desync4": 2, "no_communication": 0}[scheme]
                r = [r[rank] + A(rank, r[rank]) for rank in ranks]
                if every and ((i + 1) % every == 0 or i + 1 == count):
                    total = sum(r[rank] / self.tp + M(rank, r[rank]) for rank in ranks)
                    r = [total for _ in ranks]
                else:
                    r = [r[rank] + M(rank, r[rank]) for rank in ranks]
        r = plus(plus(r, a), m)
        table = self.ends.get("lm_head", self.ends["embedding"])
        return [transformer.rms_norm(x[:, -1:], self.ends["final_norm"]) @ table.T for x in r]


def plus(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


DIFFERING = ("desync2", "desync4", "no_communication")
"""Schemes in which ranks have streams of their own."""


def passes(
    uses: Uses,
    machine: Topology,
    *,
    scheme: str = "standard",
    attention: str = "heads",
    form: Any = None,
    chunks: int = 1,
    parts: int = 1,
    positions: Sequence[int] = PASSES,
    batch: int = 4,
    heads: int = 8,
    kv: int = 2,
    ffn: str = "swiglu",
    layers: int = 2,
    ladder_layers: int = 1,
    tied: bool = False,
    widths: int = 1,
    head: bool = True,
    every_position: bool = False,
    cuts: Sequence[int] = (),
    scattered: bool = False,
) -> Iterator[tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]]:
    """(the executor's logits, its tokens, the recurrence's logits) of every pass, of each rank where ranks differ.

    Args:
        widths: d_model and d_ff are 16 and 32 times this.
    """
    chips = machine.total_chips
    size = transformer.sizes(batch=batch, positions=0, heads=heads, kv_heads=kv, e=16 * widths, f=32 * widths)
    size["V"] = 6 * chips
    rng = np.random.default_rng(1)
    weights = [transformer.weights(rng, size, ffn) for _ in range(layers)]
    ends = transformer.ends(rng, size, tied=tied)
    flow = NumpyExecutor(machine, size, form, chunks)
    model = plain_model(ffn, heads, kv)
    differing = scheme in DIFFERING and bool(uses.summed)
    lengths = dict(flow.mesh)
    copies = prod(lengths[axis] for axis in uses.batch)
    ranks = Ranks(weights, ends, chips // copies if differing else 1, kv)
    for count in positions:
        size["L"] = count
        chips_per_token_group = int(np.prod([length for axis, length in flow.mesh if axis in uses.tokens]))
        by_sequence = count % chips_per_token_group > 0 or parts > 1 or not set(uses.tokens) <= set(uses.heads)
        layer: Layer[Any] = Layer(flow, model, uses, attention, token_dim="B" if by_sequence else "L")
        forward_pass: forward.ForwardPass[Any] = forward.ForwardPass(
            layers=forward.split_layer(layer, (batch // parts,) * parts if parts > 1 else ()),
            kinds=forward.kinds_of(model, SCHEMES[scheme](layers, ladder_layers)),
            head=uses.weights if head else (),
            every_position=every_position,
            tied=tied,
        )
        flow.tokens, flow.weights = rng.integers(size["V"], size=(batch, count)), ends
        streams = forward_pass.embed_tokens()
        for i, kind in enumerate(forward_pass.kinds):
            if i in cuts:
                forward_pass.send_stream(streams, scattered)
                streams = forward_pass.receive_stream(scattered, forward_pass.kinds[i - 1])
            flow.layer, flow.weights = i, weights[i]
            streams = forward_pass.layer(kind, streams)
        flow.weights = ends
        _, logits, token = forward_pass.compute_logits(streams)
        want = ranks.logits(flow.tokens, scheme, ladder_layers, cuts)
        if differing and not head:  # every rank of every copy, whose sequences are its own
            of_chip = [(flow.grid.block(uses.summed, chip), flow.grid.block(uses.batch, chip)) for chip in range(chips)]
            want = [np.split(want[rank], copies)[copy] for rank, copy in of_chip]
        got = [each[:, -1:] for each in logits.shards] if differing and not head else [flow.collect(logits)[:, -1:]]
        tokens = got[0].argmax(-1) if scheme == "no_communication" else flow.collect(token)[: len(got[0])]
        yield got, tokens, want if len(got) == len(want) else want[:1]


def assert_equal(found) -> None:
    for got, token, want in found:
        for mine, theirs in zip(got, want, strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)
        np.testing.assert_array_equal(token, got[0].argmax(-1))


def differs(found) -> bool:
    return any(not np.allclose(mine, theirs) for got, _, want in found for mine, theirs in zip(got, want, strict=True))


def run_both(
    layout,
    mesh,
    *,
    block="parallel",
    batch=None,
    prompt=3,
    kv=1,
    heads=None,
    tied=True,
    wrap=True,
    machine=None,
    **more,
):
    """Two layers on a torus of which every dimension is a multiple."""
    chips, machine = prod(mesh), machine or torus(*mesh, wrap=wrap)
    heads = heads or 2 * chips
    return passes(
        layout(tuple(axis.name for axis in machine.mesh)),
        machine,
        scheme="parallel" if block == "parallel" else "standard",
        positions=(prompt, 1, 1),
        batch=chips if batch is None else batch,
        heads=heads,
        kv=kv or heads,
        tied=tied,
        widths=chips,
        **more,
    )
