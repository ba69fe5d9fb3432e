"""The equations of Pope et al. 2022 against what the paper prints and plots, and against each other."""

import csv
from itertools import groupby, pairwise
from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.closed_form import pope
from sim.errors import InputError
from sim.specs import load

GIB = 2**30
TPU_V4 = 270e9  # bytes/s, section 4
PALM_540B = {"E": 18432, "F": 73728}
PRESETS = (
    "weight_stationary_1d",
    "weight_stationary_2d",
    "weight_gathered_x",
    "weight_gathered_xy",
    "weight_gathered_xyz",
)

tokens = st.integers(1, 2**24)
widths = st.integers(1, 2**18)
lengths = st.integers(1, 16)


def published(name):
    with open(load.data_root() / "scenarios" / "published" / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scenario(layout, *settings, name="palm540b_decode_ws2d"):
    base = load.scenario(name, settings)
    return base.model_copy(update={"layout": base.layout.model_copy(update={"ffn": layout})})


# --- best splits: section 3.2.2, appendix A.2 ------------------------------------------------------------------------


def optimal_x(n: float, E: float, F: float) -> float:
    """X that minimises the 2D volume: sqrt(n E/F). Appendix A.2.1 prints F = 4E: X = 0.5 sqrt(n), YZ = 2 sqrt(n)."""
    return sqrt(n * E / F)


def optimal_weight_stationary_2d(B: float, L: float, E: float, F: float, n: float) -> pope.Volume:
    """4 B L sqrt(E F/n), the 2D volume at `optimal_x`; 8 B L E/sqrt(n) for the F = 4E of appendix A.2.1."""
    return pope.Volume(4 * B * L * sqrt(E * F / n))


def two_d_beats_one_d(n: float, E: float, F: float) -> bool:
    """sqrt(n) > F/E, as printed. Section 3.2.2. True of the volumes at F = 4E; see `two_d_beats_one_d_exactly`."""
    return sqrt(n) > F / E


def two_d_beats_one_d_exactly(n: float, E: float, F: float) -> bool:
    """4 B L sqrt(E F/n) < 2 B L E, which is sqrt(n) > 2 sqrt(F/E): the printed criterion if F = 4E, and only then."""
    return sqrt(n) > 2 * sqrt(F / E)


def optimal_gathered_over(B: float, L: float, F: float, n: float) -> float:
    """N that minimises the weight-gathered volume: sqrt(B L n/F), as if N were continuous. Appendix A.2.2."""
    return sqrt(B * L * n / F)


def optimal_weight_gathered_time(B: float, L: float, E: float, F: float, n: float, bw: float, c: float = 2) -> float:
    """4 E sqrt(B L F)/(sqrt(n) bw), times c bytes per element, s: at `optimal_gathered_over`. Appendix A.2.2."""
    return 4 * E * sqrt(B * L * F) / (sqrt(n) * bw) * c


# --- what the paper prints and plots ---------------------------------------------------------------------------------


@pytest.mark.parametrize("point", published("pope_fig3_analytic"), ids=lambda p: f"{p['layout']}-{p['tokens']}")
def test_every_point_of_figure_3(point):
    """Four digits read off a logarithmic axis, so the error is relative: half a unit of the fourth digit, 5e-4."""
    cube = {"E": 16384, "F": 65536, "lengths": (4, 4, 4)}
    gigabytes = pope.ffn_volume(point["layout"], int(point["tokens"]), 1, **cube).bytes() / 1e9
    assert gigabytes == pytest.approx(float(point["gigabytes_per_chip"]), rel=5e-4)


def test_figure_3_has_four_curves_of_fourteen_points():
    points = published("pope_fig3_analytic")
    assert {name: len(list(rows)) for name, rows in groupby(points, lambda p: p["layout"])} == dict.fromkeys(
        PRESETS[1:], 14
    )


@pytest.mark.parametrize(
    ("heads", "d_head", "attention", "batch", "printed"),
    [
        # 48 heads are padded to 64, one a chip; their d_head is halved to keep the attention parameters (section 4.2)
        pytest.param(64, 128, "heads", 128, 1320, id="multi-head, 128"),
        pytest.param(64, 128, "heads", 512, 330, id="multi-head, 512"),
        pytest.param(1, 256, "heads", 128, 660, id="baseline multi-query, 128"),
        pytest.param(1, 256, "heads", 512, 165, id="baseline multi-query, 512"),
        pytest.param(1, 256, "batch", 128, 43_000, id="optimised multi-query, 128"),
        pytest.param(1, 256, "batch", 512, 10_700, id="optimised multi-query, 512"),
    ],
)
def test_longest_contexts_of_table_1(heads, d_head, attention, batch, printed):
    """PaLM 540B, 118 layers, 64 chips of 32 GiB, 30 % of it for the bf16 cache. Printed to two or three digits."""
    split = pope.cache_split(attention, heads, batch, n=64)
    per_position = pope.cache_bytes(118, heads, d_head, batch, split=split)
    assert 0.30 * 32 * GIB / per_position == pytest.approx(printed, rel=0.02)


def test_unpadded_heads_would_miss_table_1():
    """48 heads on 64 chips: if they could be split evenly, the context would be 64/48 longer than printed."""
    per_position = pope.cache_bytes(118, 48, 128, 128, split=64)
    assert 0.30 * 32 * GIB / per_position == pytest.approx(1320 * 64 / 48, rel=0.02)


def test_the_cache_of_section_2_1():
    """Multi-head, batch 512, context 2048: 3 TB in all, three times the parameters in bf16."""
    cache = pope.cache_bytes(118, 48, 128, 512 * 2048, split=1)
    assert cache == pytest.approx(3e12, rel=0.02)
    assert cache / (540e9 * 2) == pytest.approx(3, rel=0.07)


def latencies_with_mfu():
    rows = {row["case_id"]: row for row in published("pope_dev")}
    return [
        (row, rows[f"{name[:-4]}-mfu"]) for name, row in rows.items() if f"{name[:-4]}-mfu" in rows and "-lat" in name
    ]


@pytest.mark.parametrize(("timed", "printed"), [pytest.param(*p, id=p[0]["case_id"]) for p in latencies_with_mfu()])
def test_printed_latencies_have_the_printed_mfus(timed, printed):
    """2N tokens/(n peak latency) with N = 540e9 unpadded and 275 TFLOP/s, within what was rounded off both numbers."""
    positions = {"prefill": "input_tokens", "decode_step": "generated_tokens", "decode_total": "generated_tokens"}
    processed = int(timed["batch"]) * int(timed[positions[timed["phase"]]])
    value = pope.mfu(540e9, processed, int(timed["chips"]), 275e12, float(timed["value"]))
    rounding = (float(printed["reading_error_pct"]) + float(timed["reading_error_pct"])) / 100
    assert value == pytest.approx(float(printed["value"]), rel=rounding)


def test_a_64_chip_cube_is_the_best_2d_split():
    """Appendix A.2.1: F = 4E and n = 64 give X = 0.5 sqrt(64) = 4 and YZ = 2 sqrt(64) = 16."""
    X = optimal_x(64, 1024, 4096)
    assert (X, 64 / X) == (4, 16)
    assert (1024 / X, 4096 / 16) == (256, 256)  # the shards of the example
    T = optimal_weight_stationary_2d(8, 1, 1024, 4096, 64).activations
    assert T == 8 * 8 * 1 * 1024 / 8 == pope.weight_stationary_2d(8, 1, 1024, 4096, 4, 16).activations


def test_crossovers_of_figure_3():
    found = pope.crossovers(16384, 65536, 4, 4, 4)
    assert list(found.values()) == [16384, 65536, 786432, 131072]


def test_palm_540b_gathers_its_weights_from_147456_tokens():
    found = pope.crossovers(**PALM_540B, X=4, Y=4, Z=4)
    assert found["weight_stationary_2d", "weight_gathered_xyz"] == 147_456


# --- identities ------------------------------------------------------------------------------------------------------


@given(B=tokens, E=widths, F=widths, X=lengths, Y=lengths, Z=lengths)
def test_no_2d_split_beats_the_best_one(B, E, F, X, Y, Z):
    """E/X + F X/n is least where both are equal (arithmetic and geometric mean): at X = sqrt(n E/F)."""
    n = X * Y * Z
    best = optimal_weight_stationary_2d(B, 1, E, F, n).activations
    assert best <= pope.weight_stationary_2d(B, 1, E, F, X, Y * Z).activations * (1 + 1e-12)
    X = optimal_x(n, E, F)
    assert pope.weight_stationary_2d(B, 1, E, F, X, n / X).activations == pytest.approx(best)


@given(B=tokens, E=widths, F=widths, X=lengths, Y=lengths, Z=lengths)
def test_no_gathering_beats_the_best_one(B, E, F, X, Y, Z):
    """2 E F N/n + 2 B L E/N is least where both are equal: at N = sqrt(B L n/F). N = n is apart: no activations."""
    n = X * Y * Z
    best = optimal_weight_gathered_time(B, 1, E, F, n, TPU_V4)
    for N in {1, X, X * Y} - {n}:
        assert best <= pope.weight_gathered(B, 1, E, F, N, n).time(TPU_V4) * (1 + 1e-12)
    N = optimal_gathered_over(B, 1, F, n)
    terms = 2 * E * F * N / n, 2 * B * E / N
    assert terms[0] == pytest.approx(terms[1])
    assert sum(terms) * 2 / TPU_V4 == pytest.approx(best)


@given(E=widths, F=widths, n=st.integers(1, 4096))
def test_2d_beats_1d_exactly_where_its_volume_is_smaller(E, F, n):
    one, two = pope.weight_stationary_1d(1, 1, E), optimal_weight_stationary_2d(1, 1, E, F, n)
    if abs(one.activations - two.activations) > 1e-9 * one.activations:
        assert two_d_beats_one_d_exactly(n, E, F) == (two.activations < one.activations)


@given(E=widths, n=st.integers(1, 4096))
def test_the_printed_criterion_is_that_of_f_4e(E, n):
    """2 sqrt(F/E) = F/E at F = 4E only: above 16 chips 2D wins, at 16 both send the same."""
    assert two_d_beats_one_d(n, E, 4 * E) == two_d_beats_one_d_exactly(n, E, 4 * E) == (n > 16)


def test_at_16_chips_1d_and_2d_send_the_same():
    one, two = pope.weight_stationary_1d(64, 1, 18432), pope.weight_stationary_2d(64, 1, **PALM_540B, X=2, YZ=8)
    assert one == two


@given(E=widths, F=widths, X=st.integers(2, 16), Y=st.integers(2, 16), Z=st.integers(2, 16))
def test_volumes_are_equal_at_their_crossover_and_change_sides_there(E, F, X, Y, Z):
    for (below, above), at in pope.crossovers(E, F, X, Y, Z).items():

        def sent(layout, B):
            return pope.ffn_volume(layout, B, 1, E, F, (X, Y, Z)).bytes()

        assert sent(below, at) == pytest.approx(sent(above, at))
        assert sent(below, at / 2) < sent(above, at / 2)
        assert sent(below, at * 2) > sent(above, at * 2)


@given(B=tokens, N=st.sampled_from([1, 4, 16]))
def test_time_is_slope_one_in_bytes_and_in_inverse_bandwidth(B, N):
    volume = pope.weight_gathered(B, 1, **PALM_540B, N=N, n=64)
    assert volume.time(2 * TPU_V4) == volume.time(TPU_V4) / 2
    assert volume.time(TPU_V4, 4, 4) == pytest.approx(2 * volume.time(TPU_V4))


@pytest.mark.parametrize("layout", PRESETS)
def test_int8_halves_the_weights_on_the_wire_and_nothing_else(layout):
    volume = pope.ffn_volume(layout, 64, 1, **PALM_540B, lengths=(4, 4, 4))
    assert volume.bytes(2, 2) - volume.bytes(2, 1) == volume.weights
    assert volume.bytes(2, 0) == 2 * volume.activations


def test_a_cache_is_split_no_further_than_it_can_be():
    assert pope.cache_split("batch", 1, B=4, n=64) == 4  # whole sequences
    assert pope.cache_split("heads", 48, B=64, n=64) == 48  # whole heads
    assert pope.cache_split("heads", 1, B=64, n=64, N=16) == 16  # 16 groups have their own sequences
    assert pope.cache_split("heads", 64, B=64, n=64, N=4) == 64


# --- a scenario ------------------------------------------------------------------------------------------------------


def test_terms_of_a_decode_step():
    """PaLM 540B int8 on 64 TPU v4, batch 64, cache 2048 + 32.5 on average: every term by hand."""
    terms = pope.paper(scenario("weight_stationary_2d")).terms
    assert terms["compute"] == pytest.approx(2 * 540e9 * 64 / (64 * 275e12))
    assert terms["weights"] == pytest.approx(540e9 / (64 * 1200e9))
    assert terms["kv_cache"] == pytest.approx(118 * 2 * 256 * 2 * 2080.5 / 1200e9)
    assert terms["communication"] == pytest.approx(118 * 2 * 64 * (18432 / 4 + 73728 / 16) * 2 / TPU_V4)
    assert pope.paper(scenario("weight_stationary_2d")).step_s == pytest.approx(
        terms["weights"] + terms["kv_cache"] + terms["communication"]
    )


@pytest.mark.parametrize("layout", PRESETS)
def test_every_layout_has_its_communication(layout):
    """Weights are gathered as int8, one byte; activations are bf16."""
    volume = pope.ffn_volume(layout, 64, 1, **PALM_540B, lengths=(4, 4, 4))
    assert pope.paper(scenario(layout)).terms["communication"] == pytest.approx(
        118 * (2 * volume.activations + volume.weights) / TPU_V4
    )


def test_layouts_share_compute_and_weights():
    first, *others = (pope.paper(scenario(layout)).terms for layout in PRESETS)
    for terms in others:
        assert (terms["compute"], terms["weights"]) == (first["compute"], first["weights"])


def test_large_prefills_want_weights_gathered():
    """At 2048 tokens a sequence, from batch 72 on (147,456 tokens) gathering over all axes beats 2D; bf16 weights."""
    for batch, gathered_wins in ((64, False), (128, True)):
        settings = (f"workload.batch={batch}", "workload.weights=bf16")
        stationary, gathered = (
            pope.paper(scenario(layout, *settings, name="palm540b_prefill_ws2d_b1")).step_s
            for layout in ("weight_stationary_2d", "weight_gathered_xyz")
        )
        assert (gathered < stationary) == gathered_wins


def test_one_chip_sends_nothing():
    one = scenario("weight_gathered_xyz", *(f"topology.axes.{axis}.size=1" for axis in "xyz"))
    assert pope.paper(one).terms["communication"] == 0


def test_decode_steps_slow_down_with_context():
    """Linear: the cache is read once a step."""
    steps = [pope.paper(scenario("weight_stationary_2d", f"workload.context={c}")).step_s for c in (1000, 2000, 3000)]
    (first, second) = (b - a for a, b in pairwise(steps))
    assert first == pytest.approx(second)
    assert first == pytest.approx(118 * 2 * 256 * 2 * 1000 / 1200e9)


def test_cost_is_chip_seconds_per_token():
    """Section 4.4: 28.5 ms a step for 64 sequences on 64 chips is 28.5 ms of one chip per token."""
    assert pope.cost(64, 0.0285, B=64, L=1) == pytest.approx(0.0285)


def test_an_unknown_layout_is_named_with_a_suggestion():
    with pytest.raises(
        InputError, match=r"^layout\.ffn: .* got 'weight_stationary_3d'; did you mean 'weight_stationary_"
    ):
        pope.paper(scenario("weight_stationary_3d"))
