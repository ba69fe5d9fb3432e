"""Passes of tiny models with experts and latent attention: the NumPy executor's, and one device's written plainly."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from sim.layouts import forward
from sim.layouts.layer import Layer
from sim.layouts.numpy_executor import NumpyExecutor
from sim.layouts.residual import SCHEMES
from sim.specs.experts import ExpertsSpec
from sim.specs.model import LatentSpec
from sim.specs.uses import Uses
from sim.topology import Topology
from support.transformer import ends, ffn, rms_norm

Array = np.ndarray
LAYERS = 3


def model_of(
    *,
    experts: int = 0,
    top_k: int = 2,
    shared: int = 1,
    dense_first: int = 1,
    latent: bool = False,
    window: int = 0,
    kv_heads: int = 2,
) -> Any:
    """A model of three layers; `experts` 0: dense, `window` 0: all layers attend to all positions."""
    mixture = (
        ExpertsSpec(count=experts, top_k=top_k, d_ff=16, shared=shared, dense_first=dense_first) if experts else None
    )
    return SimpleNamespace(
        ffn="swiglu",
        heads=8,
        kv_heads=8 if latent else kv_heads,
        experts=mixture,
        latent=LatentSpec(q_rank=12, kv_rank=10, rope=2, d_value=5) if latent else None,
        window_of=lambda layer: window if window and layer % 2 == 0 else None,
    )


def sizes(model: Any, batch: int) -> dict[str, int]:
    size = {"B": batch, "L": 0, "E": 16, "F": 32, "H": model.heads, "K": model.kv_heads, "Q": 6, "V": 24}
    if model.experts:
        size |= {"X": model.experts.count, "Y": model.experts.count, "D": 16, "S": 16 * model.experts.shared}
    if model.latent:
        size |= {"A": 12, "C": 10, "R": 2, "N": 4, "U": 5}
    return size


def weights(random: np.random.Generator, model: Any, size: dict[str, int], layer: int) -> dict[str, Array]:
    shapes = {"norm": "E", "ffn_norm": "E"}
    if model.latent:
        shapes |= {"w_q_a": "EA", "w_kv_a": "EC", "w_k_rope": "ER", "q_norm": "A", "kv_norm": "C"}
        shapes |= {"w_q_plain": "AHN", "w_q_rope": "AHR", "w_k": "CHN", "w_v": "CHU", "w_o": "HUE"}
    else:
        shapes |= {"w_q": "EHQ", "w_k": "EKQ", "w_v": "EKQ", "w_o": "HQE"}
    if model.experts and model.experts.in_layer(layer):
        shapes |= {"w_router": "EX", "w_gate_experts": "XED", "w_up_experts": "XED", "w_down_experts": "XDE"}
        shapes |= {"w_gate_shared": "ES", "w_up_shared": "ES", "w_down_shared": "SE"} if model.experts.shared else {}
    else:
        shapes |= {"w_gate": "EF", "w_up": "EF", "w_down": "FE"}
    return {name: random.normal(size=[size[dim] for dim in dims]) / 3 for name, dims in shapes.items()}


class OneDevice:
    """`logits` [B, 1, V] of the last of the new tokens [B, L]; extends the cache. Token by token, head by head."""

    def __init__(self, model: Any, layers: list[dict[str, Array]], ends: dict[str, Array]) -> None:
        self.model, self.layers, self.ends = model, layers, ends
        self.cache: list[Any] = [None] * len(layers)
        self.chosen: dict[tuple[int, int], list[int]] = {}
        """Experts of each token (sequence, position) in the last layer that has any."""

    def logits(self, tokens: Array) -> Array:
        return self.hidden(tokens)[:, -1:] @ self.ends["embedding"].T

    def hidden(self, tokens: Array) -> Array:
        """The normalised stream [B, L, E] after the model's layers."""
        x = self.ends["embedding"][tokens]
        for i in range(LAYERS):
            x = self.layer(i, x)
        return rms_norm(x, self.ends["final_norm"])

    def layer(self, i: int, x: Array) -> Array:
        w = self.layers[i]
        y = rms_norm(x, w["norm"])
        x = x + (self._latent(i, y, w) if self.model.latent else self._attention(i, y, w))
        y = rms_norm(x, w["ffn_norm"])
        return x + (self._experts(y, w) if "w_router" in w else ffn(y, w))

    def _append(self, layer: int, *new: Array) -> tuple[Array, ...]:
        old = self.cache[layer]
        self.cache[layer] = (
            new if old is None else tuple(np.concatenate(pair, 1) for pair in zip(old, new, strict=True))
        )
        return self.cache[layer]

    def _attention(self, layer: int, y: Array, w: dict[str, Array]) -> Array:
        q = np.tensordot(y, w["w_q"], 1)
        k, v = self._append(layer, np.tensordot(y, w["w_k"], 1), np.tensordot(y, w["w_v"], 1))
        group = q.shape[2] // k.shape[2]
        out = attend(q, np.repeat(k, group, 2), np.repeat(v, group, 2), self.model.window_of(layer))
        return np.tensordot(out, w["w_o"], 2)

    def _latent(self, layer: int, y: Array, w: dict[str, Array]) -> Array:
        c_q = rms_norm(y @ w["w_q_a"], w["q_norm"])
        q = np.concatenate([np.tensordot(c_q, w["w_q_plain"], 1), np.tensordot(c_q, w["w_q_rope"], 1)], -1)
        c, rope = self._append(layer, rms_norm(y @ w["w_kv_a"], w["kv_norm"]), y @ w["w_k_rope"])
        heads = q.shape[2]
        k = np.concatenate([np.tensordot(c, w["w_k"], 1), rope[:, :, None].repeat(heads, 2)], -1)
        return np.tensordot(attend(q, k, np.tensordot(c, w["w_v"], 1)), w["w_o"], 2)

    def _experts(self, y: Array, w: dict[str, Array]) -> Array:
        out = np.zeros_like(y)
        for b, position in np.ndindex(y.shape[:2]):
            token = y[b, position]
            scores = token @ w["w_router"]
            chosen = np.argsort(-scores)[: self.model.experts.top_k]
            self.chosen[b, position] = chosen.tolist()
            share = np.exp(scores[chosen] - scores[chosen].max())
            for expert, part in zip(chosen, share / share.sum(), strict=True):
                own = {name: w[f"{name}_experts"][expert] for name in ("w_gate", "w_up", "w_down")}
                out[b, position] += part * ffn(token, own)
        if "w_up_shared" in w:
            out += ffn(y, {name: w[f"{name}_shared"] for name in ("w_gate", "w_up", "w_down")})
        return out


def attend(q: Array, k: Array, v: Array, window: int | None = None) -> Array:
    out = np.zeros((*q.shape[:3], v.shape[-1]))
    for b, position, h in np.ndindex(q.shape[:3]):
        seen = k.shape[1] - q.shape[1] + position + 1
        first = 0 if window is None else max(0, seen - window)
        scores = k[b, first:seen, h] @ q[b, position, h] / np.sqrt(q.shape[3])
        share = np.exp(scores - scores.max())
        out[b, position, h] = (share / share.sum()) @ v[b, first:seen, h]
    return out


def passes(
    uses: Uses,
    machine: Topology,
    model: Any,
    *,
    absorbs: tuple[bool, ...] = (False, True, True),
    shared: str = "under_dispatch",
    scheme: str = "standard",
    parts: tuple[float, ...] = (),
    split_dim: str = "B",
    in_stages: bool = False,
    context: str = "ring",
    batch: int = 8,
    positions: tuple[int, ...] = (3, 1, 1),
) -> Iterator[tuple[Array, Array, NumpyExecutor, OneDevice]]:
    """(the executor's logits, one device's, the executor, the device) of a prefill and two decode steps."""
    size = sizes(model, batch)
    random = np.random.default_rng(1)
    layers = [weights(random, model, size, layer) for layer in range(LAYERS)]
    outside = ends(random, size)
    flow, one = NumpyExecutor(machine, size), OneDevice(model, layers, outside)
    flow.top_k = model.experts.top_k if model.experts else 1
    kinds = forward.kinds_of(model, SCHEMES[scheme](LAYERS, 1))
    for count, absorb in zip(positions, absorbs, strict=True):
        size["L"] = count
        group = int(np.prod([length for axis, length in flow.mesh if axis in uses.tokens]))
        by_sequence = count % group > 0 or (bool(parts) and split_dim == "B") or not set(uses.tokens) <= set(uses.heads)
        layer: Layer[Any] = Layer(
            flow,
            model,
            uses,
            token_dim="B" if by_sequence else "L",
            absorbs=absorb,
            shared_experts=shared,
            split_dim=split_dim,
            in_stages=in_stages,
            context=context,
        )
        forward_pass: forward.ForwardPass[Any] = forward.ForwardPass(
            layers=forward.split_layer(layer, [round(part * size[split_dim]) for part in parts]),
            kinds=kinds,
            head=uses.weights,
            every_position=False,
            tied=True,
        )
        flow.tokens, flow.weights = random.integers(size["V"], size=(batch, count)), outside
        streams = forward_pass.embed_tokens()
        for i, kind in enumerate(kinds):
            flow.layer, flow.weights = i, layers[i]
            streams = forward_pass.layer(kind, streams)
        flow.weights = outside
        _, logits, _ = forward_pass.compute_logits(streams)
        one.chosen.clear()
        yield flow.collect(logits)[:, -1:], one.logits(flow.tokens), flow, one
