"""What hides behind what on a GPU box: streams, residual schemes and splits of the work, seen in the trace."""

import itertools

import numpy as np
import pytest
from support import shipped
from support.selection import first_of_each

from sim.engine import simulate
from sim.lowering.emitter import Emitter
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind
from sim.report import spans
from sim.report.metrics import measure
from sim.simulate.forward_pass import simulate_pass
from sim.simulate.latency import latency_s, step_s
from sim.simulate.run import run
from sim.specs import load
from sim.specs.uses import PRESETS

HALVES = {
    "attention": {
        "residual attention add",
        "norm",
        "qkv",
        "rotary and cache",
        "attention scores",
        "attention softmax",
        "attention values",
        "o",
    },
    "mlp": {"residual mlp add", "ffn_norm", "wi", "activation", "wo"},
}
"""Ops of either half of a layer."""


def traced(*settings, name="llama3_70b_tp8_ladder", layers=6):
    scenario = load.scenario(name, [f"engine.layers={layers}", *settings])
    topology = mesh_of(scenario)
    return simulate(lower(scenario, topology).program), topology


def step_us(*settings, **options):
    return traced(*settings, **options)[0].makespan_ps / 1e6


@pytest.mark.parametrize("batch", [1, 64])
def test_every_all_reduce_of_ladder_runs_under_exactly_one_half_layer_and_one_at_a_time(batch):
    """AR(a[l]) under the FFN of layer l, AR(m[l]) under the attention of layer l + 1; the last hides behind nothing."""
    layers = 6
    trace, _ = traced(f"workload.batch={batch}", layers=layers)
    program, half_of = trace.program, {op: half for half, ops in HALVES.items() for op in ops}
    for chip in range(8):
        compute, sums = spans.compute_spans(trace).of_lane(chip), spans.collective_spans(trace).of_lane(chip)
        assert len(sums) == 2 * layers
        assert (sums.start[1:] >= sums.end[:-1]).all()
        for i, (start, end) in enumerate(zip(sums.start, sums.end, strict=True)):
            layer, half = divmod(i, 2)
            under = compute.where(np.flatnonzero((compute.start < end) & (compute.end > start)))
            seen = {(int(program.layer[t]), half_of.get(program.op_names[program.op[t]], "end")) for t in under.task}
            own = (layer, "mlp") if half == 0 else (layer + 1, "attention")
            assert seen == (set() if i == 2 * layers - 1 else {own})


@pytest.mark.parametrize("scheme", ["parallel", "desync2"])
def test_two_products_that_chips_sum_are_added_by_a_kernel_unless_a_compiler_fuses_them(scheme):
    """A library's matmul writes its product. On one chip the next norm adds."""

    def kernels(*settings):
        trace, _ = traced(f"layout.residual={scheme}", "layout.logits=last", *settings)
        return [trace.program.op_names[op] for op in trace.program.op].count("wo add")

    layers, chips = 6, 8
    assert kernels("workload.batch=4") == layers * chips
    assert kernels("workload.batch=1") == 0
    assert kernels("workload.batch=1", "stack.row_matmul=library") == layers * chips
    assert kernels("workload.batch=4", "layout.mesh.tensor=1") == 0
    assert kernels("workload.batch=4", "stack=ideal") == 0


def test_standard_hides_nothing_and_ladder_nearly_all():
    figures = {name: measure(*traced(f"layout.residual={name}")) for name in ("standard", "ladder")}
    standard, ladder = figures["standard"], figures["ladder"]
    assert standard.overlapped_communication_s.max() == 0
    per_all_reduce = standard.exposed_communication_s[0] / 12
    assert ladder.exposed_communication_s[0] < 1.5 * per_all_reduce  # the last of twelve is exposed


def test_on_the_compute_stream_ladder_gains_nothing():
    """Whatever the dependencies allow, a kernel on the compute stream runs in order. Ladder pays for its adds."""
    one_shot = ("collectives={all_reduce: one_shot}", "layout.communication=compute_stream")
    figures = measure(*traced(*one_shot))
    assert figures.overlapped_communication_s.max() == 0
    assert step_us(*one_shot) > step_us(*one_shot, "layout.residual=standard")
    assert step_us(*one_shot[:1]) < step_us(*one_shot)


def test_communication_on_its_own_stream_joins_the_compute_stream_for_a_price():
    """Standard waits for each of its all-reduces: twelve joins of 6 us are 72 us more than none."""
    with_joins, without = (step_us("layout.residual=standard", f"stack.stream_wait={wait} us") for wait in (6, 0))
    assert with_joins - without == pytest.approx(12 * 6)


def test_interference_slows_what_runs_under_an_all_reduce_and_nothing_else():
    none, some = "stack.memory_interference=0", "stack.memory_interference=4"
    for residual, slower in (("standard", False), ("no_communication", False), ("ladder", True)):
        a, b = (step_us(f"layout.residual={residual}", "workload.batch=64", each) for each in (none, some))
        assert (b > 1.01 * a) if slower else (b == pytest.approx(a, rel=1e-12))


def test_without_graph_capture_the_host_launches_one_op_after_the_other():
    """With launches of 50 us, longer than any op, the step is as long as they are together, plus the last op."""
    trace, _ = traced("layout.graph_capture=false", "stack.launch=50 us")
    program = trace.program
    launched = (program.kind == Kind.LAUNCH) & (program.chip == 0)
    ops = ((program.kind == Kind.COMPUTE) | (program.kind == Kind.BEGIN)) & (program.chip == 0)
    assert launched.sum() == ops.sum()
    assert 50 * launched.sum() < trace.makespan_ps / 1e6 < 50 * (launched.sum() + 20)
    assert step_us("layout.graph_capture=false", "stack.launch=0 us") == step_us()


@pytest.mark.parametrize("overlap", ["micro_batches", "chunked_matmul"])
def test_standard_may_hide_its_sums_by_splitting_the_work(overlap):
    """Both hide communication; whether that pays depends on what the split costs, which is why Ladder needs neither."""
    settings = (
        "layout.residual=standard",
        "workload={phase: prefill, batch: 8, prompt: 512, weights: fp16, activations: fp16, kv_cache: fp16}",
    )
    plain, split = (
        measure(*traced(*settings, layers=3)),
        measure(*traced(*settings, f"layout.overlap={overlap}", layers=3)),
    )
    assert plain.overlapped_communication_s[0] == 0
    assert split.overlapped_communication_s[0] > 0.2 * split.communication_s[0]
    assert split.compute_s[0] > plain.compute_s[0]


def test_pieces_of_a_matmul_are_named_after_it_and_their_sums_after_the_half():
    settings = ("layout.residual=standard", "layout.overlap=chunked_matmul")
    program = traced(*settings)[0].program
    names = {program.op_names[op] for op in np.unique(program.op[program.kind == Kind.COMPUTE])}
    sums = {program.op_names[op] for op in np.unique(program.op[program.kind == Kind.BEGIN])}
    assert {"o", "wo"} <= names
    assert {"all_reduce(t) attention", "all_reduce(t) mlp"} <= sums
    assert not {"attention", "mlp"} & names


def test_sequence_parallelism_moves_what_an_all_reduce_moves():
    """Ring all-reduce = reduce-scatter + all-gather: the same bytes on the wire, twice the collectives."""
    settings = (
        "layout.residual=standard",
        "workload.batch=8",
        "collectives={all_reduce: ring, all_gather: ring, reduce_scatter: ring}",
        "layout.head=sharded",
    )
    whole, split = (traced(*settings, f"layout.sequence_parallel={value}") for value in ("false", "true"))

    def sent(trace):
        program = trace.program
        inside = (program.kind == Kind.SEND) & (program.chip == 3) & (program.layer >= 0)
        return program.bytes[inside].sum()

    assert sent(split[0]) == pytest.approx(sent(whole[0]))


def test_the_steps_on_a_static_cache_are_one_step():
    scenario = load.scenario("llama3_70b_tp8_generate", ["engine.layers=2", "workload.generate=9"])
    prefill, decode = scenario.phases
    steps = [step_s(decode.model_copy(update={"workload": each})) for each in decode.workload.each_step]
    assert len(set(steps)) == 1
    assert latency_s(scenario) == pytest.approx(step_s(prefill) + 9 * steps[0])
    assert run(scenario).report.simulated.latency_s == pytest.approx(latency_s(scenario))


def test_layers_of_every_scheme_repeat_exactly():
    """Repeated blocks are the programs of layers lowered one by one: the steps between equal layers are equal."""
    for scheme, period in (("standard", 1), ("parallel", 1), ("ladder", 1), ("desync2", 1), ("desync4", 2)):
        trace, _ = traced(f"layout.residual={scheme}", layers=10)
        program, start = trace.program, trace.times["start"]
        blocks = [np.sort(start[program.layer == layer]) for layer in range(10)]
        middle = range(3, 8 - period)
        steps = [np.unique(blocks[i + period] - blocks[i]) for i in middle]
        assert all(len(step) == 1 for step in steps), scheme
        assert all(a == b for a, b in itertools.pairwise(int(step[0]) for step in steps[::period])), scheme


@pytest.mark.slow
def test_without_peer_to_peer_access_ladder_gains_more():
    """As measured: 31 % with it, 57 to 60 % without, batch 1 and 4."""

    def speedup(topology, batch):
        base = [f"topology={topology}", f"workload.batch={batch}"]
        standard, ladder = (step_us(*base, f"layout.residual={name}", layers=60) for name in ("standard", "ladder"))
        return standard / ladder

    for batch in (1, 4):
        assert speedup("dgx_h100_p2p_disabled", batch) > speedup("dgx_h100", batch) + 0.2


def with_events(monkeypatch):
    """Collectives wait for all compute issued before them, as where an event is recorded on the compute stream."""
    collective = Emitter.collective

    def recorded(self, kind, axes, size, name, inputs, dtype):
        return collective(self, kind, axes, size, name, (*inputs, *self.streams.last("compute")), dtype)

    monkeypatch.setattr(Emitter, "collective", recorded)


def of_events(notes):
    return [note for note in notes if "records an event" in note]


def overlap_of(name: str) -> tuple[object, ...]:
    """Names what decides which collectives of a scenario overlap with what."""
    scenario = load.scenario(name)
    layout = scenario.layout
    return (
        scenario.topology.kind,
        scenario.stack.name,
        layout.ffn,
        layout.residual,
        layout.overlap,
        layout.communication,
    )


@pytest.mark.parametrize("name", first_of_each(sorted(load.shipped("scenario")), overlap_of))
def test_in_shipped_scenarios_events_recorded_at_issue_change_nothing(name, monkeypatch):
    """Their collectives are issued right after their inputs, so the report has nothing to say of it."""
    phases = shipped.scenario(name).phases
    before = [simulate_pass(phase) for phase in phases]
    with_events(monkeypatch)
    for found, phase in zip(before, phases, strict=True):
        assert not of_events(found.lowered.notes)
        assert simulate_pass(phase).makespan_ps == found.makespan_ps


@pytest.mark.parametrize("layout", PRESETS)
def test_a_collective_that_overtakes_compute_is_named(layout, monkeypatch):
    """On a torus with two streams: gathers of weights, and exchanges of queries beside the keys' projection."""
    own = ("layout.overlap=none", f"layout.ffn={layout}", "engine.layers=3")
    for stream in ("own_stream", "compute_stream"):
        scenario = load.scenario("palm540b_decode_ws2d", [*own, f"layout.communication={stream}"])
        found = simulate_pass(scenario)
        with monkeypatch.context() as patch:
            with_events(patch)
            recorded = simulate_pass(scenario)
        assert recorded.makespan_ps >= found.makespan_ps
        if recorded.makespan_ps > found.makespan_ps:
            assert of_events(found.lowered.notes)
        if stream == "compute_stream":
            assert not of_events(found.lowered.notes)
            assert recorded.makespan_ps == found.makespan_ps
        elif scenario.uses(dict.fromkeys("xyz", 1)).gather:  # gathers of weights run ahead
            assert of_events(found.lowered.notes)


@pytest.mark.parametrize("overlap", ["none", "collective_matmul"])
@pytest.mark.parametrize("layout", PRESETS)
def test_a_looped_collective_is_launched_and_slows_compute_as_any_other(layout, overlap, monkeypatch):
    """If a collective in progress takes a tenth of the compute rate, each begins to and ends to on every chip; where
    the host launches, it launches each."""
    monkeypatch.setattr(Emitter, "slow_ppm", lambda self, plan, size: 100_000)
    settings = (f"layout.overlap={overlap}", f"layout.ffn={layout}", "layout.graph_capture=false", "engine.layers=2")
    scenario = load.scenario("palm540b_decode_ws2d", settings)
    program = lower(scenario, mesh_of(scenario)).program
    for kind, ppm in ((Kind.BEGIN, 100_000), (Kind.END, -100_000)):
        own = program.kind == kind
        assert (program.slow_ppm[own] == ppm).all()
        assert (program.slows[own] == program.chip[own]).all()
    for task in np.flatnonzero(program.kind == Kind.BEGIN).tolist():
        assert Kind.LAUNCH in program.kind[program.dependencies(task)]


def test_asynchronous_tensor_parallelism_sends_every_chunk_directly_and_adds_up_the_sums():
    """V bytes in 8 chunks: a chip copies its own to memory that others address, sends 7 chunks V/8, none of which waits
    for what others sent, and adds up 8 chunks to one: 9 V/8 bytes."""
    settings = ("layout={ffn: megatron_sequence_parallel, overlap: collective_matmul}", "collectives={}")
    scenario = load.scenario("vllm_llama3_70b_tp8", [*settings, "model.layers=1", "workload.prompt=4096"])
    assert scenario.stack.loop_form == "direct"
    machine = mesh_of(scenario)
    program = lower(scenario, machine).program
    size = 4096 * 8192 * 2
    for name in ("qkv", "wi"):
        assert set(program.bytes[program.compute_tasks(f"{name} copy")]) == {2 * size / 8}
    for name in ("o", "wo"):
        assert set(program.bytes[program.compute_tasks(f"{name} sum")]) == {9 * size / 8}
    for op in ("all_gather(t) qkv", "reduce_scatter(t) o"):
        sends = np.flatnonzero((program.op == program.op_names.index(op)) & (program.kind == Kind.SEND))
        messages = sends[program.follows[sends] < 0]
        assert (np.bincount(program.chip[messages], minlength=8) == 7).all()
        assert set(program.bytes[sends]) == {size / 8}
        assert not any(np.isin(program.dependencies(task), sends).any() for task in messages.tolist())


def test_sixteen_gpus_with_the_stack_of_eight_are_hardly_faster_at_one_sequence():
    """Twice the GPUs halve the reads of weights, but sums go over a network."""
    eight = latency_s(load.scenario("llama3_70b_tp8_standard", ["engine.steps=mean"]))
    two_boxes = ("topology=dgx_h100_x2", "layout.mesh={tensor: 16}", "engine.steps=mean")
    sixteen = latency_s(load.scenario("llama3_70b_tp8_standard", two_boxes))
    assert sixteen / eight == pytest.approx(1, abs=0.08)


def test_two_batches_hide_the_exchange_of_tokens_under_each_other():
    """A part's dispatch runs under the other's attention or experts, its combine under experts or the next layer's
    attention. With links so fast that each is shorter than what it runs under, only the last layer's second combine is
    exposed; a whole batch exposes every combine."""
    mixture = (
        "model={name: mixture, layers: 3, d_model: 1024, d_ff: 2048, heads: 8, kv_heads: 8, d_head: 128,"
        " vocabulary: 1024, ffn: swiglu, block: serial, tied: false,"
        " experts: {count: 8, top_k: 2, d_ff: 2048, shared: 1}}",
        "topology={name: box, kind: switch, chip: h100_sxm, chips: 4,"
        " link: {name: port, bandwidth: 4 TB/s, latency: 1 us}}",
        "workload={phase: prefill, batch: 8, prompt: 4096, weights: bf16, activations: bf16, kv_cache: bf16}",
        "layout={ffn: expert_parallel}",
        "stack=ideal",
    )
    exposed = {}
    for overlap in ("none", "micro_batches"):
        measured = measure(*traced(*mixture, f"layout.overlap={overlap}", name="llama3_70b_tp8_standard", layers=3))
        exchanges = [op for op in measured.ops if op.op.startswith(("dispatch", "combine"))]
        exposed[overlap] = {op.op: op.exposed_s / op.time_s for op in exchanges}
    assert exposed["none"]["combine(t) experts"] == pytest.approx(1)
    assert exposed["micro_batches"] == {
        "dispatch(t) experts 0": 0,
        "dispatch(t) experts 1": 0,
        "combine(t) experts 0": 0,
        "combine(t) experts 1": pytest.approx(1 / 3),
    }
