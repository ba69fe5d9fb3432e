"""Multi-token prediction: on several chips it computes what it computes on one device, written plainly."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from support.machines import switch
from support.mixtures import LAYERS, OneDevice, model_of, sizes, weights
from support.transformer import ends, rms_norm

from sim.layouts import forward
from sim.layouts.layer import Layer
from sim.layouts.multi_token import propose_tokens
from sim.layouts.numpy_executor import NumpyExecutor
from sim.layouts.residual import SCHEMES
from sim.specs.uses import Uses
from sim.topology.mesh import mesh_of_pieces, row_major

BATCH, VERIFIED, PROPOSALS = 8, 3, 3
MODELS = {
    "dense": model_of(),
    "experts": model_of(experts=4),
    "latent": model_of(experts=4, latent=True),
    "window": model_of(window=2),
}
USES = {
    "tensor_parallel": Uses(heads=("t",), d_ff=("t",)),
    "expert_parallel": Uses(batch=("t",), experts=("t",)),
    "tensor_expert_parallel": Uses(heads=("t",), d_ff=("t",), experts=("t",)),
    "attention_data_parallel": Uses(d_ff=("t",), tokens=("t",)),
}


class Module(OneDevice):
    """One device whose last layer is the module's."""

    def propose(self, hidden: np.ndarray, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The hidden state and the logits of the last position."""
        w = self.ends
        inputs = rms_norm(w["embedding"][tokens], w["mtp_norm_embedding"]), rms_norm(hidden, w["mtp_norm_hidden"])
        matrix = np.concatenate([w["mtp_project_embedding"], w["mtp_project_hidden"]])
        x = self.layer(LAYERS, np.concatenate(inputs, -1) @ matrix)
        hidden = rms_norm(x[:, -1:], w["mtp_final_norm"])
        return hidden, hidden @ w["embedding"].T


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("uses", USES)
def test_proposals_are_those_of_one_device(model: str, uses: str):
    """Two steps, so that the module's cache grows; three proposals, each from the token before it."""
    given, at, random = MODELS[model], USES[uses], np.random.default_rng(1)
    machine = switch(4)
    machine = replace(machine, mesh=mesh_of_pieces(machine.axes, row_major([("t", 4)])))
    size = {**sizes(given, BATCH), "L": VERIFIED, "M": 16}
    layers = [weights(random, given, size, min(layer, LAYERS - 1)) for layer in range(LAYERS + 1)]
    outside = ends(random, size)
    for name in ("embedding", "hidden"):
        outside |= {f"mtp_norm_{name}": random.normal(size=16), f"mtp_project_{name}": random.normal(size=(16, 16)) / 3}
    outside["mtp_final_norm"] = random.normal(size=16)
    like_last = {**vars(given), "window_of": lambda layer: given.window_of(min(layer, LAYERS - 1))}
    flow, one = NumpyExecutor(machine, size), Module(SimpleNamespace(**like_last), layers, outside)
    flow.top_k = 2
    layer: Layer[Any] = Layer(flow, given, at, token_dim="B", absorbs=bool(given.latent))
    kinds = forward.kinds_of(given, SCHEMES["standard"](LAYERS, 1))
    pass_: forward.ForwardPass[Any] = forward.ForwardPass((layer,), kinds, at.weights, every_position=True, tied=True)
    for _ in range(2):
        flow.tokens, flow.weights = random.integers(24, size=(BATCH, VERIFIED)), outside
        follow = [random.integers(24, size=(BATCH, VERIFIED if i == 0 else 1)) for i in range(PROPOSALS)]
        hidden = one.hidden(flow.tokens)
        streams = pass_.embed_tokens()
        for i, kind in enumerate(kinds):
            flow.layer, flow.weights = i, layers[i]
            streams = pass_.layer(kind, streams)
        flow.weights = outside
        normed, _, token = pass_.compute_logits(streams)
        rest = iter(follow[1:])

        def enter(kind: forward.LayerKind | None, rest=rest) -> None:
            flow.layer, flow.weights = (LAYERS, layers[LAYERS]) if kind else (0, outside)
            if kind is None:
                flow.tokens = next(rest, flow.tokens)

        flow.tokens = follow[0]
        found, _ = propose_tokens(pass_, PROPOSALS, normed, token, enter)
        for tokens in follow:
            hidden, logits = one.propose(hidden, tokens)
        np.testing.assert_allclose(flow.collect(found), logits, rtol=1e-9, atol=1e-9)
