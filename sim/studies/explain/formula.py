"""From the formula of Pope et al. 2022 (arXiv 2211.05102) to the closed form of the layout on an ideal machine.

Symbols as in `sim.closed_form.pope`; e, f, g, r as in `sim.closed_form.pass_builder`. All times are in seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from math import ceil, prod

from msgspec.structs import replace

from sim.closed_form import pope
from sim.closed_form.operation_counts import count_operations
from sim.closed_form.operations import Op
from sim.closed_form.pass_builder import computed_d_model
from sim.closed_form.pass_time import predict_per_operation
from sim.report.present.explanation import FORMULA, Model
from sim.simulate.communication import Communication
from sim.specs import DTYPE_BYTES, AxisSpec, Scenario
from sim.specs.uses import Axes, Uses
from sim.studies.explain.changes import close_rings, with_fields
from sim.units import format_list, format_seconds

WIRE, WORK = "Communication it simplifies", "Work it leaves out"

_COLLECTIVES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")
_ENDS = ("embedding", "last position", "logits", "token")
_WITH_THE_FFN = ("residual ", "q_wi ", "o_wo ")
"""Operations of the parallel block whose collectives the paper counts, for the FFN alone."""

Times = Mapping[str, float]


def list_models(ideal: Scenario) -> Iterator[Model]:
    """Models of one pass of `ideal`, a scenario on an ideal machine; the last is its closed form per operation."""
    parallel = with_fields(ideal, {"layout.block": "parallel", "layout.residual": None, "layout.hybrid": None})
    formula = pope.paper(ideal)
    communication = formula.terms["communication"]
    yield from _printed(ideal, formula.terms)
    roof = formula.step_s - communication
    for model in _wires(parallel):
        communication = model.step_s
        yield Model(model.name, model.group, roof + communication, model.why)
    yield from _work(parallel, communication)
    if ideal.residual != "parallel":
        why = "the FFN follows attention: the residual is gathered, normalised and scattered twice (section 3.4)"
        yield Model("Serial block", WORK, sum(_terms(ideal).values()), why)


def _terms(scenario: Scenario) -> Times:
    return predict_per_operation(scenario, Communication(scenario)).terms


def _printed(scenario: Scenario, terms: Times) -> Iterator[Model]:
    """Formats the formula, as the terms that count in it."""
    work = scenario.workload
    chip, n = scenario.topology.chip, _ways(scenario, tuple(scenario.part.lines))
    N = scenario.parameters
    memory = terms["weights"] + terms["kv_cache"]
    if terms["compute"] > memory:
        why = f"2 x {_count(N)} parameters x {work.batch * work.tokens_per_step:,} tokens at {n} chips' data sheet peak"
        why += f"; memory, {format_seconds(memory)}, hides under it"
        yield Model("Matmuls at peak", FORMULA, terms["compute"], why)
    else:
        why = f"{_count(N)} parameters in {work.weights} over {n} chips' {chip.hbm_bandwidth.value / 1e9:.0f} GB/s"
        why += f"; matmuls, {format_seconds(terms['compute'])}, hide under it"
        yield Model("Weights from memory", FORMULA, terms["weights"], why)
        tokens = f"{work.batch:,} x {work.mean_cache_length:,.0f} tokens"
        why = f"keys and values of {tokens}, split as attention over {scenario.layout.attention} does"
        yield Model("KV cache from memory", FORMULA, memory, why)
    if terms["communication"]:
        bw = pope.bandwidth_of_chip(scenario)
        why = f"an FFN of two matrices; every collective at {bw / 1e9:.0f} GB/s, what all links of a chip carry"
        yield Model("Communication", FORMULA, max(terms["compute"], memory) + terms["communication"], why)


# --- communication ---------------------------------------------------------------------------------------------------


def _wires(scenario: Scenario) -> Iterator[Model]:
    """Yields communication alone, from the paper's volumes to all collectives of the layers."""
    rings, lines = close_rings(scenario), scenario.part.lines
    at = scenario.uses(_lengths(scenario))
    over = [axes for axes in (at.d_model, at.d_ff, at.gather) if _ways(rings, axes) > 1]
    if not over:
        return
    bw = pope.bandwidth_of_chip(scenario)
    sent = sum(2 * size * (1 - 1 / _ways(rings, axes)) for axes, size in _ffn_sizes(rings, at).items())
    ways = format_list([f"{_ways(rings, axes)} over {_names(axes)}" for axes in over])
    yield Model(
        "Own share stays: (K-1)/K",
        WIRE,
        scenario.layers * sent / bw,
        f"of what K chips gather, each holds 1/K already; K: {ways}",
    )

    ffn = _ffn_wires(rings, replace(at, stream=at.d_ff), matrices_in=1)
    links = 2 * len(lines)
    have = format_list([f"over {_names(axes)} {_links(rings, axes)} of {links}" for axes in over])
    yield Model("Only the links of its axes", WIRE, ffn, f"a collective has no others: {have}")

    if at.stream != at.d_ff:
        ffn = _ffn_wires(rings, at, matrices_in=1)
        why = f"the residual stream is split over {_names(at.stream)} alone, and whole on the chips along the others"
        yield Model("Residual summed whole", WIRE, ffn, why)
    if scenario.model.ffn == "swiglu":
        ffn = _ffn_wires(rings, at, matrices_in=2)
        what = "its weights are gathered as well" if at.gather else "twice as many products to scatter"
        yield Model("Third FFN matrix", WIRE, ffn, f"SwiGLU has two matrices into the FFN: {what}")
    if _width(scenario) != scenario.model.d_model:
        padded = with_fields(rings, {"model.d_model": _width(scenario)})
        ffn = _ffn_wires(padded, at, matrices_in=2 if scenario.model.ffn == "swiglu" else 1)
        yield Model("Padded d_model", WIRE, ffn, _padding(scenario))

    wires = _layer_wires(rings)
    total = sum(time for name, time in wires.items() if name.startswith(_WITH_THE_FFN))
    yield Model("Queries, attention output", WIRE, total, "their projections travel with the FFN's in one collective")
    exchanged = sum(time for name, time in wires.items() if name.endswith("all-to-all"))
    why = "attention over the batch: queries go from heads to sequences, its output back (section 3.3)"
    yield Model("All-to-alls", WIRE, total + exchanged, why)
    why = "each layer also sums or gathers its keys and values, and sums the squares of its norm"
    yield Model("Keys, values, norm", WIRE, sum(wires.values()), why)

    as_built = with_fields(scenario, {"topology.collectives": {}, "collectives": {}})
    open_axes = "".join(n for n, axis in lines.items() if axis.size > 1 and not _is_ring(axis))
    why = f"no ring closes along {open_axes}: the chips at the ends of a line receive over one link instead of two"
    yield Model("No wraparound", WIRE, sum(_layer_wires(as_built).values()), why)
    chosen = {**scenario.topology.collectives, **scenario.collectives}
    named = [f"{name} by {algorithm}" for name, algorithm in chosen.items() if name != "collective_matmul"]
    why = f"{format_list(named)}, not on all links of all axes at once"
    yield Model("Chosen algorithms", WIRE, sum(_layer_wires(scenario).values()), why)


def _padding(scenario: Scenario) -> str:
    d_model, width = scenario.model.d_model, _width(scenario)
    return f"{d_model} is computed as {width}, so that chips share it: {width / d_model - 1:+.1%} of all weights"


def _width(scenario: Scenario) -> int:
    """Returns d_model as it is computed."""
    lengths = _lengths(scenario)
    return computed_d_model(scenario, scenario.uses(lengths), lengths)


def _lengths(scenario: Scenario) -> dict[str, int]:
    """Returns the lengths of a torus's axes."""
    return {name: axis.size for name, axis in scenario.part.lines.items()}


def _ffn_sizes(scenario: Scenario, at: Uses) -> dict[Axes, float]:
    """Returns gathered bytes of the paper's collectives in one layer: B_gLE_e over f, B_gLF_f over e, E_eF_f over g.

    Each runs twice, in and out: two times their sum is `pope.ffn_volume`. Sections 3.2.1 to 3.2.3.
    """
    model, work = scenario.model, scenario.workload
    e, f, g = (_ways(scenario, axes) for axes in (at.d_model, at.d_ff, at.gather))
    tokens, a, w = work.batch / g * work.tokens_per_step, DTYPE_BYTES[work.activations], DTYPE_BYTES[work.weights]
    sizes = {
        at.d_ff: tokens * model.d_model / e * a,
        at.d_model: tokens * model.d_ff / f * a,
        at.gather: model.d_model / e * model.d_ff / f * w,
    }
    return {axes: size for axes, size in sizes.items() if axes}


def _ffn_wires(scenario: Scenario, at: Uses, matrices_in: int) -> float:
    """Returns communication of an FFN of `matrices_in` matrices and one out, on the links of its axes."""
    to, sizes = Communication(scenario), {(): 0.0, **_ffn_sizes(scenario, at)}
    same = tuple(axis for axis in at.d_ff if axis not in at.stream)
    full_size = sizes[at.d_ff] / _ways(scenario, at.stream)
    wires = [("all_reduce", same, full_size)]
    for collective, count in (("reduce_scatter", matrices_in), ("all_gather", 1)):
        wires.append((collective, at.d_model, count * sizes[at.d_model]))
        wires.append((collective, at.stream, sizes[at.d_ff]))
        wires.append(("all_gather", at.gather, count * sizes[at.gather]))
    return scenario.layers * sum(to.collective(*each)[0] for each in wires)


def _layer_wires(scenario: Scenario) -> Times:
    """Collectives of all layers."""
    return {
        name: time
        for name, time in _terms(scenario).items()
        if name.endswith(_COLLECTIVES) and not name.startswith(_ENDS)
    }


# --- work ------------------------------------------------------------------------------------------------------------


def _work(scenario: Scenario, communication: float) -> Iterator[Model]:
    """Yields compute and memory, from the paper's roofline of all parameters to one of every operation."""
    model, work = scenario.model, scenario.workload
    chip, n = scenario.topology.chip, _ways(scenario, tuple(scenario.part.lines))
    peak, hbm = scenario.matmul_peak.value, chip.hbm_bandwidth.value
    w, tokens = DTYPE_BYTES[work.weights], work.batch * work.tokens_per_step
    cache = pope.paper(scenario).terms["kv_cache"]

    def roof(parameters: float) -> float:
        flops = pope.compute_time(parameters, tokens, n, peak)
        return max(flops, pope.memory_time(parameters, w, 0, n, hbm) + cache) + communication

    f = _ways(scenario, scenario.uses(_lengths(scenario)).d_ff)
    heads = ceil(model.computed_heads / f) * f
    cached = heads if model.kv_heads == model.heads else model.kv_heads
    per_head = 2 * model.d_model * model.d_head * scenario.layers
    added = per_head * (heads - model.heads + cached - model.kv_heads)
    nominal = scenario.parameters
    why = f"{model.heads} heads are computed as {heads}, so that chips share them: {added / nominal:+.1%} parameters"
    yield Model("Padded heads", WORK, roof(nominal + added), why)

    wider = _width(scenario) / model.d_model
    if wider > 1:
        yield Model("Padded d_model", WORK, roof((nominal + added) * wider), _padding(scenario))

    terms = _terms(scenario)
    ends = sum(time for name, time in terms.items() if name.startswith(_ENDS))
    matrices = 3 if model.ffn == "swiglu" else 2
    of_layers = wider * (scenario.layers * matrices * model.d_model * model.d_ff + per_head * (heads + cached))
    does = "is left out" if scenario.layout.logits == "none" else "is looked up, and multiplied once a sequence"
    why = f"the formula multiplies the table for every token; it {does}"
    yield Model("Embedding and logits", WORK, roof(of_layers) + ends, why)

    flops, read, moved = _taken_apart(scenario)
    rest, multiplied = communication + ends, [name for name in flops if name != "attention"]
    computed, cache = sum(flops[name] for name in multiplied), read["attention"]
    gathered = {name.removesuffix(" weights all-gather") for name in terms if name.endswith(" weights all-gather")}
    g = _ways(scenario, scenario.uses(_lengths(scenario)).gather) if gathered else 1
    chip_bytes = sum(read[name] / (g if name in gathered else 1) for name in multiplied)
    what = f"{model.kv_heads} key-value head{'s' if model.kv_heads > 1 else ''} for {n} chips"
    why = f"{what}: chips read copies of the weights and repeat some of each other's projections"
    yield Model("Copies of keys and values", WORK, max(computed, chip_bytes + cache) + rest, why)
    why = f"a chip reads all that it multiplies with, {g} times its own share"
    all_bytes = sum(read[name] for name in multiplied) + cache
    yield Model("Gathered weights are read in full", WORK, max(computed, all_bytes) + rest, why)

    each = sum(max(flops[name], read[name]) for name in multiplied) + rest
    why = "one after the other: what waits for memory in one does not hide under the FLOPs of another"
    yield Model("Each operation its own roofline", WORK, each + cache, why)
    unfused = scenario.stack.attention == "unfused" and moved["attention"]
    through = "; its 32-bit scores go through memory" if unfused else ""
    why = f"the FLOPs of attention itself{through}"
    yield Model("Attention scores", WORK, each + max(flops["attention"], cache + moved["attention"]), why)
    why = "every operation reads its inputs and writes its outputs, where memory is what it waits for"
    yield Model("Activations through memory", WORK, sum(terms.values()), why)


def _taken_apart(scenario: Scenario) -> tuple[Times, Times, Times]:
    """(FLOPs at the peak, weights or cache, activations from memory) of each operation of the layers, s."""
    chip = scenario.topology.chip
    flops, read, moved = (defaultdict[str, float](float) for _ in range(3))
    operations = count_operations(scenario, Communication(scenario)).operations
    for op in (operation for operation in operations if isinstance(operation, Op)):
        if not op.name.startswith(_ENDS):
            flops[op.name] += op.flops / scenario.matmul_peak.value
            read[op.name] += op.read_bytes / chip.hbm_bandwidth.value
            moved[op.name] += op.activation_bytes / chip.hbm_bandwidth.value
    return flops, read, moved


# --- words -----------------------------------------------------------------------------------------------------------


def _is_ring(axis: AxisSpec) -> bool:
    return axis.wrap and not axis.twist


def _ways(scenario: Scenario, axes: Axes) -> int:
    """Chips of a group."""
    return prod(scenario.part.lines[axis].size for axis in axes)


def _links(scenario: Scenario, axes: Axes) -> int:
    """Links of a chip that a collective over these axes can use."""
    return 2 * sum(_ways(scenario, (axis,)) > 1 for axis in axes)


def _names(axes: Axes) -> str:
    return "".join(sorted(axes))


def _count(number: float) -> str:
    return f"{number / 1e9:.3g} billion"
