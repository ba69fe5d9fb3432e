"""Multi-token prediction (DeepSeek-V3 2024, section 2.2): a module that proposes the tokens after the next one.

With h the hidden state of a position after the final norm and t the token that follows it,

    x = (RMSNorm(embedding of t), RMSNorm(h)) M;  one layer of the model's kind;  norm;  the shared LM head

gives the logits of the token after t. Its first pass of a step has all tokens that the step verified, whose keys and
values it caches; each further proposal is a pass of one token (SGLang, vLLM). M is whole on every chip, as there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec.structs import replace

from sim.errors import LayoutError
from sim.layouts.dataflow import V
from sim.layouts.residual import LAYERS, Stream

if TYPE_CHECKING:
    from sim.layouts.forward import ForwardPass, LayerKind


def propose_tokens(
    forward_pass: ForwardPass[V], count: int, hidden: V, token: V, enter: Callable[[LayerKind | None], None]
) -> tuple[V, V]:
    """Returns the logits and the token of the last of `count` proposals.

    Args:
        hidden: normalised stream after the last layer.
        token: next token of each sequence.
        enter: called with the kind of the module's layer before it, and with None after it.

    Raises:
        LayoutError: chips that split d_model or positions of the stream, or gather weights.
    """
    flow, uses, kind = forward_pass.flow, forward_pass.batch_layer.uses, forward_pass.proposing_kind
    by_position = uses.positions or (uses.tokens and forward_pass.batch_layer.token_dim == "L")
    if uses.d_model or uses.stream or uses.gather or by_position:
        rule = "multi-token prediction requires whole positions of the residual stream on its chips"
        raise LayoutError(rule, where="model.mtp", hint="tensor_parallel, expert_parallel or attention_data_parallel")
    logits = token
    for draft in range(count):
        part = " mtp again" if draft else " mtp"
        layer = replace(
            forward_pass.batch_layer,
            part=part,
            split_dim="L",  # all proposals append to one cache
            reach=1.0,
            has_experts=kind.has_experts,
            window=kind.window,
        )
        x = forward_pass.embed(part, token, 1 if draft else None)
        inputs = []
        for value, name in ((x, "embedding"), (hidden, "hidden")):
            _, normed = flow.norm(value, (), flow.weight(f"mtp_norm_{name}", "E", "E"), f"norm of {name}{part}")
            inputs.append((normed, "E", flow.weight(f"mtp_project_{name}", "E M", "E M")))
        x = flow.rename(flow.all_gather_matmul(inputs, (), "project" + part), "M", "E")
        enter(kind)
        stream = LAYERS[kind.residual](layer, Stream(x)).settle(layer)
        enter(None)
        hidden, logits, token = forward_pass.apply_head(stream, part)
    return logits, token
