"""A one-device transformer with a KV cache, written plainly: what every layout must compute."""

from collections.abc import Mapping

import numpy as np

Array = np.ndarray


def sizes(
    *, batch: int, positions: int, heads: int = 8, kv_heads: int = 1, e: int = 16, f: int = 32, q: int = 4
) -> dict[str, int]:
    return {"B": batch, "L": positions, "E": e, "F": f, "H": heads, "K": kv_heads, "Q": q, "V": 3 * e}


def weights(rng: np.random.Generator, size: Mapping[str, int], ffn: str) -> dict[str, Array]:
    shapes = {
        "norm": "E",
        "ffn_norm": "E",
        "w_q": "EHQ",
        "w_k": "EKQ",
        "w_v": "EKQ",
        "w_o": "HQE",
        "w_up": "EF",
        "w_down": "FE",
    } | ({"w_gate": "EF"} if ffn == "swiglu" else {})
    return {name: rng.normal(size=[size[d] for d in dims]) / 3 for name, dims in shapes.items()}


def ends(rng: np.random.Generator, size: Mapping[str, int], *, tied: bool = True) -> dict[str, Array]:
    """The embedding's table, the LM head where it is another one, and the final norm."""
    tables = ("embedding",) if tied else ("embedding", "lm_head")
    return {name: rng.normal(size=[size["V"], size["E"]]) for name in tables} | {
        "final_norm": rng.normal(size=size["E"])
    }


class OneDevice:
    """`logits` [B, 1, V] of the last of the new tokens [B, L]; extends the cache."""

    def __init__(self, layers: list[dict[str, Array]], ends: dict[str, Array], block: str) -> None:
        self.layers, self.ends, self.block = layers, ends, block
        self.cache: list[tuple[Array, Array] | None] = [None] * len(layers)

    def logits(self, tokens: Array) -> Array:
        x = self.forward(self.ends["embedding"][tokens])
        return rms_norm(x[:, -1:], self.ends["final_norm"]) @ self.ends.get("lm_head", self.ends["embedding"]).T

    def forward(self, x: Array) -> Array:
        for i, w in enumerate(self.layers):
            y = rms_norm(x, w["norm"])
            if self.block == "parallel":
                x = x + self._attention(i, y, w) + ffn(y, w)
            else:
                x = x + self._attention(i, y, w)
                x = x + ffn(rms_norm(x, w["ffn_norm"]), w)
        return x

    def _attention(self, layer: int, y: Array, w: dict[str, Array]) -> Array:
        q, k, v = (np.tensordot(y, w[name], 1) for name in ("w_q", "w_k", "w_v"))
        if (old := self.cache[layer]) is not None:
            k, v = np.concatenate([old[0], k], 1), np.concatenate([old[1], v], 1)
        self.cache[layer] = (k, v)
        out = np.zeros_like(q)
        group = q.shape[2] // k.shape[2]
        for b in range(q.shape[0]):
            for h in range(q.shape[2]):
                for i in range(q.shape[1]):
                    seen = k.shape[1] - q.shape[1] + i + 1
                    scores = k[b, :seen, h // group] @ q[b, i, h] / np.sqrt(q.shape[3])
                    p = np.exp(scores - scores.max())
                    out[b, i, h] = (p / p.sum()) @ v[b, :seen, h // group]
        return np.tensordot(out, w["w_o"], 2)


def rms_norm(x: Array, gain: Array) -> Array:
    return x / np.sqrt((x**2).mean(-1, keepdims=True)) * gain


def ffn(y: Array, w: dict[str, Array]) -> Array:
    up = y @ w["w_up"]
    if "w_gate" not in w:
        return 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3))) @ w["w_down"]
    gate = y @ w["w_gate"]
    return (gate / (1 + np.exp(-gate)) * up) @ w["w_down"]
