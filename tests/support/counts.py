"""Weights and cached values of a model, counted again from its dimensions."""

from __future__ import annotations

from sim.specs import Scenario
from sim.specs.model import Model


def attention_weights(model: Model) -> int:
    """Of one layer: four projections, or those of latent vectors (DeepSeek-V2 2024, section 2.1)."""
    latent = model.latent
    if latent is None:
        return model.d_model * 2 * (model.heads + model.kv_heads) * model.d_head
    queries = model.heads * model.d_head
    down = (latent.q_rank or 0) + latent.kv_rank + latent.rope
    up = (latent.q_rank or model.d_model) * queries
    keys_and_values = latent.kv_rank * model.heads * (model.d_head - latent.rope + latent.d_value)
    return model.d_model * down + up + keys_and_values + model.heads * latent.d_value * model.d_model


def ffn_weights(model: Model, layer: int, *, active: bool = False) -> tuple[int, int]:
    """Of one layer (experts that tokens choose, all else); `active`: of the experts that one token chooses."""
    matrices, experts = {"swiglu": 3, "mlp": 2}[model.ffn] * model.d_model, model.experts
    if experts is None or not experts.in_layer(layer):
        return 0, matrices * model.d_ff
    each, count = matrices * experts.d_ff, experts.top_k if active else experts.count
    return count * each, experts.shared * each + model.d_model * experts.count


def table_weights(model: Model) -> int:
    return model.vocabulary * model.d_model * (1 if model.tied else 2)


def counted_parameters(given: Scenario) -> float:
    """As MFU counts them: those that a token uses, as published where all are; of some layers as large a share."""
    model = given.model
    layers = sum(attention_weights(model) + sum(ffn_weights(model, i, active=True)) for i in range(model.layers))
    nominal = None if model.experts else model.nominal_parameters
    return (nominal or layers + table_weights(model)) * given.layers / model.layers


def cached_values(model: Model) -> int:
    """Of one token in one layer: a key and a value per head, or one latent vector and the rotated part of the key."""
    latent = model.latent
    return latent.kv_rank + latent.rope if latent else 2 * model.kv_heads * model.d_head
