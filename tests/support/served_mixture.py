"""A small mixture of experts as it is served: tokens of eight chips on a switch, or of four on a torus."""

from sim.specs import Scenario, load

CHIPS, BATCH, K, COUNT, LAYERS, D_MODEL = 8, 512, 2, 32, 3, 1024


def mixture(*settings: str) -> Scenario:
    """Each chip has sequences of its own and four of the experts; the shared expert runs under dispatch."""
    fields = (
        "model.kv_heads=64",
        f"model.layers={LAYERS}",
        f"model.d_model={D_MODEL}",
        f"model.experts={{count: {COUNT}, top_k: {K}, d_ff: 512, shared: 1}}",
        f"workload={{phase: decode, batch: {BATCH}, context: 64, generate: 1, weights: bf16}}",
        "layout={ffn: expert_parallel}",
        *settings,
    )
    return load.scenario("llama3_70b_tp8_standard", fields)
