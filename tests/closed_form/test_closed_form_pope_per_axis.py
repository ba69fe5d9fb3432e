"""The layouts of Pope et al. 2022 with what their equations leave out. test_lower.py holds the simulation to it."""

from math import prod

import pytest

from sim.closed_form import collectives, pope
from sim.closed_form.pass_time import predict_per_operation
from sim.closed_form.prediction import PAPER_LAYOUTS as PRESETS
from sim.simulate.communication import Communication
from sim.specs import load, uses

IDEAL = (
    "stack.collective_axes=at_once",
    "stack.roofline_overlap=1",
    "topology.link.latency=0 s",
    "topology.link.efficiency=1",
    "stack.collective_overhead=0 s",
    "stack.collective_step=0 s",
    "stack.op_overhead=0 s",
    "stack.matmul_efficiency=1",
    "stack.collective_matmul_efficiency=1",
    "stack.hbm_efficiency=1",
)
ONE_LAYER = ("engine.layers=1",)
WIRES = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")
E, F, H, Q = 18432, 73728, 64, 256
LINK = 45e9  # bytes/s, one way


def scenario(layout, *settings, name="palm540b_decode_ws2d"):
    base = load.scenario(name, (*ONE_LAYER, *settings))
    return base.model_copy(update={"layout": base.layout.model_copy(update={"ffn": layout, "overlap": "none"})})


def formula(chosen):
    return predict_per_operation(chosen, Communication(chosen))


def terms(layout, *settings, name="palm540b_decode_ws2d"):
    return formula(scenario(layout, *settings, name=name)).terms


ENDS = ("embedding", "last position", "token")


def on_the_wire(terms):
    """Collectives of the layers, without those of embedding and logits."""
    return {name: time for name, time in terms.items() if name.endswith(WIRES) and not name.startswith(ENDS)}


def gathered(size, axes, share):
    """Bytes over both links of every axis, less the share that is there already."""
    return size * share / (2 * axes * LINK)


# --- uses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", PRESETS)
def test_weights_are_gathered_over_as_many_chips_as_in_the_paper(layout):
    lengths = {"x": 2, "y": 4, "z": 8}
    at = uses.PRESETS[layout](tuple(lengths))
    assert prod(lengths[axis] for axis in at.gather) == pope.gathered_over(layout, (2, 4, 8))


# --- what is on the wire ---------------------------------------------------------------------------------------------


def test_collectives_of_each_layout():
    """Empty groups cost nothing: 1D has no sums inside the layer, but sums its residual whole over y and z; XYZ moves
    weights only, X and XY both."""
    residual = {"residual all-gather", "residual reduce-scatter"}
    inside = {"norm all-reduce", "q_wi reduce-scatter", "kv reduce-scatter", "o_wo all-gather"}
    exchange = {"q all-to-all", "attention out all-to-all"}
    weights = {"q_wi weights all-gather", "o_wo weights all-gather"}
    expected = {
        "weight_stationary_1d": exchange
        | {"norm all-reduce", "q_wi all-gather", "o_wo reduce-scatter", "residual all-reduce"},
        "weight_stationary_2d": residual | inside | exchange,
        "weight_gathered_x": residual | weights | exchange,
        "weight_gathered_xy": {"residual all-gather", "o_wo reduce-scatter"} | weights | exchange,
        "weight_gathered_xyz": weights,
    }
    assert {layout: set(on_the_wire(terms(layout))) for layout in PRESETS} == expected


@pytest.mark.parametrize("layout", PRESETS)
def test_one_chip_sends_nothing(layout):
    assert not on_the_wire(terms(layout, *(f"topology.axes.{axis}.size=1" for axis in "xyz")))


def test_2d_on_its_axes():
    """4x4x4, batch 64, bf16 activations: BLE_x = 589,824 B over y and z, BL (2F + HQ)_yz = 1,310,720 B over x."""
    found = terms("weight_stationary_2d", *IDEAL)
    assert found["residual all-gather"] == pytest.approx(gathered(64 * E / 4 * 2, axes=2, share=15 / 16))
    assert found["residual reduce-scatter"] == found["residual all-gather"]
    assert found["q_wi reduce-scatter"] == pytest.approx(gathered(1_310_720, axes=1, share=3 / 4))
    assert found["o_wo all-gather"] == pytest.approx(gathered(720_896, axes=1, share=3 / 4))


def test_1d_gathers_its_residual_over_one_axis_and_sums_it_whole_over_the_others():
    """BLE_x, as the released code has it: gathered and scattered over x; a quarter of it summed over y and z."""
    found = terms("weight_stationary_1d", *IDEAL)
    assert found["q_wi all-gather"] == pytest.approx(gathered(64 * E * 2, axes=1, share=3 / 4))
    assert found["o_wo reduce-scatter"] == found["q_wi all-gather"]
    assert found["residual all-reduce"] == pytest.approx(2 * gathered(64 * E / 4 * 2, axes=2, share=15 / 16))


def test_xyz_gathers_the_whole_layer():
    """E (2F + HQ) and (F + HQ) E in bf16: 9.36e9 bytes a layer, whatever the batch; a 64th is there already."""
    total = E * (3 * F + 2 * H * Q) * 2
    assert total == pytest.approx(9.36e9, rel=1e-3)
    for batch in (64, 512):
        found = terms("weight_gathered_xyz", *IDEAL, "workload.weights=bf16", f"workload.batch={batch}")
        assert sum(on_the_wire(found).values()) == pytest.approx(gathered(total, axes=3, share=63 / 64))


@pytest.mark.parametrize(("layout", "axes", "f"), [("weight_gathered_x", 1, 16), ("weight_gathered_xy", 2, 4)])
def test_gathered_weights_stay_split_over_the_other_axes(layout, axes, f):
    """Gathered over N = 4 or 16 chips on 1 or 2 axes; what goes in and out is B_N L E over the axes that are left."""
    found = terms(layout, *IDEAL)
    N = 64 // f
    assert found["q_wi weights all-gather"] == pytest.approx(gathered(E * (2 * F + H * Q) / f, axes, share=1 - 1 / N))
    assert found["residual all-gather"] == pytest.approx(gathered(64 / N * E * 2, 3 - axes, share=1 - 1 / f))


def test_int8_weights_are_gathered_in_half_the_time():
    half, whole = (
        terms("weight_gathered_xyz", *IDEAL, f"workload.weights={dtype}")["q_wi weights all-gather"]
        for dtype in ("int8", "bf16")
    )
    assert 2 * half == pytest.approx(whole)


def test_the_ffn_of_an_mlp_is_the_paper_on_fewer_links():
    """Serial block, FFN of two matrices. The paper has all three axes work in every collective; two do for E/X and one
    for F/YZ: 2 B E/(X W) + 4 B F/(YZ W) with W of one axis, both links (How to Scale Your Model, Austin et al. 2025,
    chapter on inference).
    """
    found = terms("weight_stationary_2d", *IDEAL, "layout.block=serial", "model.ffn=mlp")
    W, B, X, YZ = 2 * LINK, 64, 4, 16
    on_e = (found["residual all-gather"] + found["residual reduce-scatter"]) / 2  # of both halves
    on_f = found["wi reduce-scatter"] + found["wo all-gather"]
    assert on_e / (15 / 16) == pytest.approx(2 * B * E / (X * W))
    assert on_f / (3 / 4) == pytest.approx(4 * B * F / (YZ * W))
    printed = pope.weight_stationary_2d(B, 1, E, F, X, YZ).time(3 * W)
    assert on_e / (15 / 16) * 2 / 3 + on_f / (3 / 4) / 3 == pytest.approx(printed)


def test_a_serial_block_pays_one_more_pair_on_the_residual():
    """Section 3.4: the parallel block removes one of the two all-reduces per layer."""
    parallel, serial = (
        on_the_wire(terms("weight_stationary_2d", *IDEAL, f"layout.block={b}")) for b in ("parallel", "serial")
    )
    pair = parallel["residual all-gather"] + parallel["residual reduce-scatter"]
    assert sum(serial.values()) - sum(parallel.values()) == pytest.approx(pair + parallel["norm all-reduce"])


@pytest.mark.parametrize("layout", PRESETS)
def test_launches_and_hops_come_once_per_collective(layout):
    """On rings of 4: two hops an axis, twice for an all-reduce, one for all-to-all stages that are bandwidth bound."""
    ideal = on_the_wire(terms(layout, *IDEAL))
    launched = on_the_wire(terms(layout, *IDEAL, "stack.collective_overhead=1 ms"))
    assert {name: time - ideal[name] for name, time in launched.items()} == pytest.approx(dict.fromkeys(ideal, 1e-3))
    name = "q_wi all-gather" if layout == "weight_stationary_1d" else "residual all-gather"
    hops = {"2d": 4, "1d": 2, "_x": 4, "xy": 2}
    if layout[-2:] in hops:
        slow = on_the_wire(terms(layout, *IDEAL, "topology.link.latency=1 s"))
        assert round(slow[name] - ideal[name], 3) == hops[layout[-2:]]


def test_axes_one_after_the_other_have_a_launch_and_links_each():
    """4x4x4, BLE_x = 589,824 B: a quarter of it over z, all of it over y, 3/4 of which come in over two links each; a
    reduce-scatter is the reverse, and an all-to-all has its whole buffer on every axis."""
    one_by_one = (*IDEAL, "stack.collective_axes=one_by_one")
    found = terms("weight_stationary_2d", *one_by_one)
    in_turn = sum(gathered(64 * E / 4 * 2 * part, axes=1, share=3 / 4) for part in (1 / 4, 1))
    assert found["residual all-gather"] == pytest.approx(in_turn)
    assert found["residual reduce-scatter"] == pytest.approx(in_turn)
    assert found["q all-to-all"] == pytest.approx(3 * (64 * H * Q / 64 * 2) * 4 / 8 / LINK)
    launched = terms("weight_stationary_2d", *one_by_one, "stack.collective_overhead=1 ms")
    assert launched["residual all-gather"] - found["residual all-gather"] == pytest.approx(2e-3)
    assert launched["q all-to-all"] - found["q all-to-all"] == pytest.approx(3e-3)


def test_an_all_to_all_starts_its_messages_one_after_the_other():
    """On a ring of 4 three messages start: two under the two hops of the farthest, with their latency; one beside them.
    As large as it is here, the second hop begins before the first has arrived."""
    free, started = (terms("weight_stationary_2d", *IDEAL, f"stack.collective_step={step}") for step in ("0 s", "1 s"))
    assert round(started["q all-to-all"] - free["q all-to-all"], 3) in (3 * 2, 3 * 3)


# --- what is computed ------------------------------------------------------------------------------------------------

FREE_MEMORY = (*IDEAL, "topology.chip.hbm_bandwidth=1e11 GB/s")


@pytest.mark.parametrize("block", ["parallel", "serial"])
@pytest.mark.parametrize("attention", ["heads", "batch"])
@pytest.mark.parametrize("layout", PRESETS)
def test_every_layout_multiplies_as_much(layout, attention, block):
    """They compute one function on 64 chips: 2 B L (3 E F + 2 E H Q)/n FLOPs in matmuls, 4 B L H Q C/n in attention."""
    choices = (f"layout.attention={attention}", f"layout.block={block}")
    found = terms(layout, *FREE_MEMORY, *choices)
    matmuls = sum(found.get(name, 0.0) for name in ("q_wi", "o_wo", "q", "o", "wi", "wo"))
    assert matmuls == pytest.approx(2 * 64 * E * (3 * F + 2 * H * Q) / (64 * 275e12))
    assert found["attention"] == pytest.approx(4 * 64 * H * Q * (2048 + 32.5) / (64 * 275e12))


def test_a_gathered_weight_is_read_in_full():
    """Small batch: a chip reads E (2F + HQ) int8 bytes where the 2D layout reads a 64th; memory bound."""
    stationary, gathered = (terms(layout, *IDEAL)["q_wi"] for layout in ("weight_stationary_2d", "weight_gathered_xyz"))
    assert gathered == pytest.approx(E * (2 * F + H * Q) / 1200e9, rel=1e-3)
    assert gathered > 60 * stationary


@pytest.mark.parametrize(
    ("layout", "copies"), [("weight_stationary_2d", 64), ("weight_gathered_x", 16), ("weight_gathered_xyz", 1)]
)
def test_a_multi_query_cache_by_heads_is_repeated_where_the_batch_is_whole(layout, copies):
    """Figure 4(b): every chip reads the keys and values of its batch group, e f times what it reads by batch."""
    # so long that queries do not count; scores stay on the chip, they are as many either way
    settings = (*IDEAL, "workload.context=1000000", "stack.attention=fused")
    by_heads, by_batch = (
        terms(layout, *settings, f"layout.attention={attention}")["attention"] for attention in ("heads", "batch")
    )
    assert by_heads / by_batch == pytest.approx(copies, rel=1e-3)


# --- where there is no exact form ------------------------------------------------------------------------------------


def test_unequal_axes_leave_a_lower_bound():
    """Both axes of f at once on 4x4x8 have no closed form; the bound of the group stands in, and says so."""
    longer = ("topology.axes.z.size=8", "layout.attention=heads")
    form = formula(scenario("weight_stationary_2d", *IDEAL, *longer))
    assert not form.exact
    rings = [(8, True), (4, True)]
    assert form.terms["residual all-gather"] == collectives.bound("all_gather", rings, 64 * E / 4 * 2, LINK, 0)
    assert formula(
        scenario(
            "weight_stationary_2d",
            *IDEAL,
            *longer,
            "collectives.all_gather=bidirectional_ring",
            "collectives.reduce_scatter=bidirectional_ring",
        )
    ).exact


def test_without_ends_the_layers_are_left():
    whole, layers = terms("weight_stationary_2d"), terms("weight_stationary_2d", "layout.logits=none")
    ends = ("embedding", "last position", "final_norm", "logits", "token")
    assert layers == {name: time for name, time in whole.items() if not name.startswith(ends)}


def test_what_does_not_pass_under_the_longer_time_is_added():
    """At batch 64 reading int8 weights takes longer than their FLOPs: 40 % of those come on top."""
    free = terms("weight_stationary_2d", *FREE_MEMORY)["q_wi"]
    perfect, apart = (
        terms("weight_stationary_2d", *IDEAL, f"stack.roofline_overlap={share}")["q_wi"] for share in (1, 0.6)
    )
    assert perfect > free
    assert apart == pytest.approx(perfect + 0.4 * free)


def test_equal_axes_are_exact_in_every_layout():
    assert all(formula(scenario(layout)).exact for layout in PRESETS)


def test_layers_add_up():
    whole, one, two = (formula(scenario("weight_gathered_xy", f"engine.layers={layers}")) for layers in (118, 1, 2))
    assert whole.step_s - one.step_s == pytest.approx(117 * (two.step_s - one.step_s))
    assert whole.step_s == pytest.approx(sum(whole.terms.values()))
