"""Search finds the paper's choices with the paper's collectives, one axis after the other (Pope et al. 2022)."""

import json

import pytest
from typer.testing import CliRunner

from sim import search
from sim.cli import app
from sim.errors import InputError
from sim.sweep.rows import measure

ONE_AXIS = "collectives={all_gather: bidirectional_ring, reduce_scatter: bidirectional_ring}"
ON = ["--model", "palm_540b", "--topology", "tpu_v4_4x4x4", "--set", ONE_AXIS, "--set", "engine.layers=8", "--json"]


def found(*options: str) -> dict:
    done = CliRunner().invoke(app, ["search", *ON, *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_decode_takes_two_dimensions_and_attention_over_the_batch():
    """Section 4.1 and 4.2: 2D weight-stationary at 64 chips, the cache split over the batch."""
    rows = found("--phase", "decode", "--batch", "64..512", "--weights", "int8")["best_per_batch"]
    assert {row["choices"]["ffn"] for row in rows} == {"weight_stationary_2d"}
    assert {row["choices"]["attention"] for row in rows} == {"batch"}


def test_prefill_gathers_the_more_weights_the_larger_the_batch():
    """Figure 7: weight-stationary for few tokens, then X, XY and at last XYZ weight-gathered."""
    rows = found("--phase", "prefill", "--batch", "1..512")["best_per_batch"]
    order = ["weight_stationary_2d", "weight_gathered_x", "weight_gathered_xy", "weight_gathered_xyz"]
    chosen = [order.index(row["choices"]["ffn"]) for row in rows]
    assert chosen == sorted(chosen)
    assert (chosen[0], chosen[-1]) == (0, 3)


def test_the_front_is_what_nothing_beats_and_only_what_fits_is_on_it():
    points = search.candidates("palm_540b", ["tpu_v4_4x4x4"], "decode", [64, 128], 2048, 64, "int8")
    rows = [measure(search.BASE, point) for point in points[::3]]
    fitting = search.fitting(rows)
    front = search.pareto(fitting)

    def figures(row):
        return row.outcome.simulated.step_s, row.outcome.simulated.cost_chip_s

    for row in fitting:
        assert any(one[0] <= figures(row)[0] and one[1] <= figures(row)[1] for one in map(figures, front))
    for one in front:
        others = [figures(row) for row in fitting if row is not one]
        assert not any(o[0] < figures(one)[0] and o[1] < figures(one)[1] for o in others)


@pytest.mark.parametrize(("text", "expected"), [("64", [64]), ("1..8", [1, 2, 4, 8]), ("3..13", [3, 6, 12])])
def test_batches(text, expected):
    assert search.batches(text) == expected


@pytest.mark.parametrize("text", ["", "0", "8..4", "1..", "a..b", "-1"])
def test_what_is_no_batch_is_one_clear_line(text):
    with pytest.raises(InputError, match="must be a batch"):
        search.batches(text)


def test_where_nothing_fits_it_says_so():
    with pytest.raises(InputError, match="fits the chips' memory"):
        search.best([], "latency")
