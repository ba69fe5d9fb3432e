"""A closed form of one's own: a roofline for the weights and FLOPs of a layer, and two ring all-reduces after it."""

from sim.plugins import Scenario, closed_form

ITEM_BYTES = {"int8": 1, "bf16": 2, "fp16": 2}


@closed_form
def roofline_and_rings(scenario: Scenario) -> float | None:
    """Roofline of the weights, and two ring all-reduces per layer."""
    workload, model, machine, stack = scenario.workload, scenario.model, scenario.topology, scenario.stack
    if machine.kind != "torus":
        return None
    chips = 1
    for axis in machine.axes.values():
        chips *= axis.size
    rows = workload.batch * workload.tokens_per_step
    peak = machine.chip.peak[workload.activations].value * stack.matmul_efficiency.value
    bandwidth = machine.chip.hbm_bandwidth.value * stack.hbm_efficiency.value
    compute_s = 2 * model.parameters * rows / chips / peak
    memory_s = model.parameters * ITEM_BYTES[workload.weights] / chips / bandwidth
    link = machine.link
    sent_bytes = 2 * rows * model.d_model * ITEM_BYTES[workload.activations] * (chips - 1) / chips
    hop_s = link.latency.value + stack.collective_step.value
    ring_s = sent_bytes / (2 * link.bandwidth.value) + 2 * (chips - 1) * hop_s
    return workload.steps * (max(compute_s, memory_s) + 2 * model.layers * ring_s)
