"""Transfer of a prefill's cache: bytes on the wire, who sends what, times by algebra, input that is refused."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sim.errors import InputError
from sim.export.chakra import NodeType
from sim.export.chakra_collectives import collective_nodes
from sim.lowering.lower import lower
from sim.lowering.placement import mesh_of
from sim.program import Kind, Program
from sim.report.lanes import build_lanes
from sim.results.folder import export
from sim.simulate.run import run
from sim.specs import DTYPE_BYTES, Scenario, load

TO_BOX = "llama3_70b_prefill_to_decode"
PROMPT = 256
SMALL = ("workload.prompt=256", "model.layers=2")


def scenario(*settings: str, name: str = TO_BOX) -> Scenario:
    return load.scenario(name, [*SMALL, *settings])


def deepseek(*settings: str) -> Scenario:
    return scenario("model=deepseek_v3", "model.layers=2", "model.experts.dense_first=0", *settings)


def program(given: Scenario) -> Program:
    return lower(given, mesh_of(given)).program.unroll()


def sent(given: Scenario) -> dict[int, Counter[tuple[int, int]]]:
    """Bytes from chip to chip, by layer."""
    tasks, found = program(given), dict[int, Counter[tuple[int, int]]]()
    names = np.array([name.startswith("send(") for name in tasks.op_names])[tasks.op]
    for task in np.flatnonzero(names & (tasks.kind == Kind.SEND) & (tasks.follows < 0)).tolist():
        ends = int(tasks.chip[task]), int(tasks.peer[task])
        found.setdefault(int(tasks.layer[task]), Counter())[ends] += float(tasks.bytes[task])
    return found


def received(messages: Counter[tuple[int, int]]) -> dict[int, float]:
    of_chips = Counter[int]()
    for (_, dst), size in messages.items():
        of_chips[dst] += size
    return dict(of_chips)


LAYER = 2 * 8 * 128 * 2 * PROMPT
"""Keys and values of 8 heads of 128 in bf16."""


def test_a_layer_sends_what_it_caches_to_the_chip_of_the_same_rank():
    by_layer = sent(scenario())
    assert by_layer == {layer: {(chip, 8 + chip): LAYER / 8 for chip in range(8)} for layer in range(2)}


@pytest.mark.parametrize(
    ("shards", "copies"),
    [("heads: 8", 1), ("batch: 8", 1), ("context: 8", 1), ("batch: 2, context: 2, heads: 2", 1), ("heads: 2", 4)],
)
@pytest.mark.parametrize("layout", ["{ffn: tensor_parallel}", "{ffn: attention_data_parallel}"])
def test_every_receiver_gets_its_shard_whatever_splits_the_cache(layout: str, shards: str, copies: int):
    moved = scenario(f"layout={layout}", f"layout.kv_transfer={{axis: box, {shards}}}", "workload.batch=8")
    for messages in sent(moved).values():
        assert received(messages) == dict.fromkeys(range(8, 16), 8 * LAYER * copies / 8)
        assert all(src < 8 for src, _ in messages)


@pytest.mark.parametrize("cache", ["bf16", "fp8"])
def test_a_latent_cache_goes_whole_to_every_chip_that_holds_it(cache: str):
    """576 values of a token; all chips of a tensor-parallel group have them, and each sends them once."""
    each = 576 * PROMPT * DTYPE_BYTES[cache]
    whole = deepseek(f"workload.kv_cache={cache}")
    assert sent(whole) == {layer: {(chip, 8 + chip): each for chip in range(8)} for layer in range(2)}
    dealt = deepseek(f"workload.kv_cache={cache}", "workload.batch=8", "layout.kv_transfer={axis: box, batch: 8}")
    for messages in sent(dealt).values():
        assert received(messages) == dict.fromkeys(range(8, 16), each)
        assert sorted(src for src, _ in messages) == list(range(8))


def test_a_window_sends_its_positions_alone():
    given = scenario("model=gpt_oss_20b", "model.layers=2")
    assert given.model.window
    assert given.model.window.size == 128
    each = 2 * 8 * 64 * 2
    by_layer = sent(given)
    assert {layer: sum(messages.values()) for layer, messages in by_layer.items()} == {0: each * 128, 1: each * PROMPT}


@pytest.mark.parametrize("overlap", ["micro_batches", "token_halves"])
def test_parts_of_a_batch_send_as_much_together(overlap: str):
    given = scenario(f"layout.overlap={overlap}", "workload.batch=2")
    assert [sum(messages.values()) for messages in sent(given).values()] == [2 * LAYER] * 2


def test_positions_that_chips_share_are_sent_by_each():
    layout = "layout={uses: {context: [gpu]}, kv_transfer: {axis: box, heads: 8}}"
    given = scenario(layout, "collectives={}")
    for messages in sent(given).values():
        assert received(messages) == dict.fromkeys(range(8, 16), LAYER / 8)
        assert len(messages) == 64


def test_several_groups_share_the_sequences():
    given = scenario(
        "topology=hgx_h200_x4", "mesh={box: boxes, gpu: 8}", "stack=best_kernels", "workload.batch=3", "collectives={}"
    )
    for messages in sent(given).values():
        assert received(messages) == dict.fromkeys(range(8, 32), LAYER / 8)


def test_half_of_a_torus_sends_to_the_other():
    """A palm has one key-value head; attention over the batch gives each of 64 chips one of 64 sequences."""
    mesh = "mesh={x: x, y: y, role: {of: z, size: 2}, z: {of: z, size: 4}}"
    given = load.scenario(
        "palm540b_prefill_ws2d_b1",
        [
            "topology=tpu_v4_4x4x8",
            mesh,
            "layout.attention=batch",
            "workload.batch=64",
            "workload.prompt=8",
            "layout.kv_transfer={axis: role}",
            "model.layers=1",
        ],
    )
    (messages,) = sent(given).values()
    each = 2 * given.model.d_head * 8 * DTYPE_BYTES[given.workload.kv_cache]
    assert messages == {(chip, chip + 4): each for chip in range(128) if chip % 8 < 4}


# --- times -----------------------------------------------------------------------------------------------------------

PAIR: dict[str, Any] = {
    "kind": "switch",
    "name": "pair",
    "chips": 2,
    "chip": "h100_sxm",
    "link": {"name": "l", "bandwidth": "50 GB/s", "latency": "3 us"},
}


@pytest.mark.parametrize("bandwidth", ["50 GB/s", "0.1 GB/s"])
def test_a_cache_takes_the_time_of_its_queue(bandwidth: str):
    """One chip to one: layer i is written at w_i and holds both ports for s; all is there at
    max over i of (w_i + the launch + the s of layers i to the last) + the latency."""
    pair = {**PAIR, "link": {**PAIR["link"], "bandwidth": bandwidth}}
    layers = 4
    given = load.scenario(
        TO_BOX,
        [
            f"topology={pair}",
            "mesh={role: 2, t: 1}",
            "layout.kv_transfer.axis=role",
            "collectives={}",
            "model=llama3_8b",
            f"model.layers={layers}",
            "workload.prompt=256",
            "engine.shortcuts=chips",
        ],
    )
    found = run(given)
    tasks, times = found.passes[0].part.program, found.passes[0].part.times
    written = times["end"][tasks.compute_tasks("rotary and cache")].tolist()
    (launch,) = set(tasks.flight_ps[tasks.kind == Kind.BEGIN].tolist())
    sends = np.flatnonzero(tasks.kind == Kind.SEND)
    (held,) = set(tasks.busy_ps[sends].tolist())
    assert len(sends) == 2 * layers
    assert held == pytest.approx(2 * 8 * 128 * 2 * 256 / float(bandwidth.split()[0]) * 1e3, abs=1)  # GB/s: 1e3 ps/B
    arrived = max(at + launch + held * (layers - i) for i, at in enumerate(written)) + 3_000_000
    transfer = found.report.transfer
    assert transfer is not None
    assert round(transfer.arrived_s * 1e12) == arrived
    computed = int(times["end"][tasks.kind == Kind.COMPUTE].max())
    assert round(transfer.exposed_s * 1e12) == max(0, arrived - computed)
    assert (transfer.exposed_s > 0) == (bandwidth == "0.1 GB/s")
    assert round(found.report.simulated.latency_s * 1e12) >= arrived


def test_the_shipped_transfer_takes_its_bytes_over_the_adapters():
    """2.5 GiB over eight adapters of 50 GB/s at the efficiency of their file: the bound of a transfer by itself."""
    given = load.scenario(TO_BOX)
    transfer, alone = run(given).report.transfer, run(load.scenario("vllm_llama3_70b_tp8"))
    assert transfer is not None
    assert transfer.bytes == given.model.cached_values * 2 * 8192 == 2.5 * 2**30
    adapter = next(link for link in mesh_of(given).links if link.medium == "net")
    rounding_s = 80 * 1e-12  # every message holds its link for whole picoseconds
    assert transfer.busiest_link_s == pytest.approx(transfer.bytes / 8 / adapter.bandwidth, abs=rounding_s)
    assert transfer.exposed_s == 0
    report = run(given).report
    assert report.simulated.latency_s == alone.report.simulated.latency_s  # adapters are not NVLink's
    assert (report.chips, report.simulated.mfu) == (8, alone.report.simulated.mfu)


def test_layers_that_repeat_are_simulated_once():
    layers = "model.layers=12"
    whole, part = (run(scenario(layers, f"engine.shortcuts={each}")) for each in ("chips", "auto"))
    assert part.passes[0].periods
    assert not whole.passes[0].periods
    assert part.report.transfer == whole.report.transfer
    assert part.report.simulated == whole.report.simulated


def test_a_cache_queues_with_the_collectives_of_its_links():
    """On one switch the cache leaves by the ports of the all-reduces."""
    machine = {**PAIR, "chips": 4}
    given = [f"topology={machine}", "mesh={role: 2, t: 2}", "collectives={}", "layout.kv_transfer.axis=role"]
    ours = run(scenario(*given))
    tasks = ours.passes[0].trace.program
    port = tasks.resources.index("gpu0:egress")
    ops = {tasks.op_names[op].partition("(")[0] for op in tasks.op[tasks.resource == port].tolist()}
    assert {"send", "all_reduce"} <= ops


def test_a_slow_adapter_leaves_its_part_exposed():
    """The other chips' parts are there long before: the step ends with the slow adapter's last message."""
    slow = "perturb={slow_links: [{links: [gpu3->rail3#0], factor: 200}]}"
    found, plain = run(scenario(slow, "stack.step_overhead=0 s")), run(scenario())
    transfer = found.report.transfer
    assert transfer is not None
    assert plain.report.transfer is not None
    assert (plain.report.transfer.exposed_s, transfer.exposed_s > 0) == (0, True)
    assert transfer.busiest_link == "gpu3->rail3#0"
    assert transfer.busiest_link_s == pytest.approx(200 * plain.report.transfer.busiest_link_s, rel=1e-6)
    assert found.report.critical_chip == 3
    assert found.report.simulated.latency_s == transfer.arrived_s


# --- what others see -------------------------------------------------------------------------------------------------


def test_a_receiver_has_the_lane_of_the_link_on_which_its_cache_comes():
    found = run(scenario()).passes[0]
    lanes = build_lanes(found.trace, found.topology, [0, 8])
    assert "send(box) cache" in {
        found.trace.program.op_names[op] for op in found.trace.program.op[lanes[0][1].spans.task]
    }
    assert [(lane.kind, lane.label, len(lane.spans)) for lane in lanes[8]] == [("link", "from rail0", 2)]
    assert found.chip_roles == {8: "only receives the cache"}


@pytest.mark.parametrize("form", ["kineto", "perfetto", "chakra"])
def test_exports_have_all_chips(form: str, tmp_path: Path):
    paths = export(run(scenario()), tmp_path, form)
    assert len([path for path in paths if path.suffix == ".et" or "rank" in path.name]) == (
        0 if form == "perfetto" else 16
    )


def test_a_chakra_trace_has_the_cache_as_messages(tmp_path: Path):
    found = run(scenario())
    trace, topology = found.passes[0].whole()
    ranks = collective_nodes(trace, topology, "bf16").ranks
    for rank, kind in ((0, NodeType.COMM_SEND), (8, NodeType.COMM_RECV)):
        messages = [node for node in ranks[rank] if node.name == "send(box) cache"]
        assert [(node.type, node.attributes["comm_size"]) for node in messages] == [(kind, LAYER // 8)] * 2


# --- input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["layout.kv_transfer.axis=boxes"], "layout.kv_transfer.axis: must be an axis of 'mesh', got 'boxes'"),
        (["mesh={box: 1, gpu: 8}"], "mesh.box: must have more than one position"),
        (["layout.kv_transfer={axis: box, batch: 8}"], "layout.kv_transfer.batch: must divide the 1 sequences, got 8"),
        (["layout.kv_transfer={axis: box, heads: 3}"], "batch x context x heads must divide the 8 chips that decode"),
        (["model=deepseek_v3", "layout.kv_transfer={axis: box, heads: 8}"], "must divide 1 heads of the cache, got 8"),
        (["mesh={box: 4, gpu: 4}"], "groups of chips that decode: must divide the 1 sequences of a chip, got 3"),
        (["workload={phase: decode, batch: 1, context: 9, generate: 1, weights: bf16}"], "is of a prefill"),
        (["padding={real_lengths: 0.5, eliminate: true}"], "is not supported with padding.eliminate"),
        (["layout.pipeline={schedule: blocking, requests: 2}"], "is not supported with layout.pipeline"),
    ],
)
def test_what_cannot_be_sent_is_refused_in_one_line(settings: list[str], message: str):
    with pytest.raises(InputError, match=message) as error:
        run(scenario(*settings, *(["collectives={}"] if "mesh" in settings[0] else [])))
    assert "\n" not in str(error.value)
