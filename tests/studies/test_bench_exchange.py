"""Dispatch and combine by themselves, from the command line."""

import json
from typing import Any

import pytest
from support.commands import call
from typer.testing import CliRunner

from sim.cli import build_app

DISPATCH = ("collective", "dispatch", "--topology", "hgx_h200", "--tokens")


def run(*arguments: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(CliRunner().invoke(build_app(()), [*arguments, "--json"]).stdout)
    return rows


def test_logical_bandwidth_is_rows_to_all_destinations_over_the_time():
    """Kimi-K2 on a perfect router: 8 experts on 8 chips, rows of 7168 bf16 numbers."""
    (row,) = run(*DISPATCH, "128", "--model", "kimi_k2", "--load", "perfect_router")
    assert row["destinations"] == 8
    assert row["bandwidth"] == pytest.approx(128 * 8 * 14336 / row["time_s"])
    assert row["busiest_link_bytes"] == pytest.approx(128 * 7 * 14336)


def test_a_sweep_has_a_row_for_each_number_of_tokens():
    rows = run(*DISPATCH, "1:100", "--factor", "4", "--dtype", "fp8", "--kernel", "low_latency")
    assert [row["tokens"] for row in rows] == [1, 4, 16, 64]
    assert {row["row_bytes"] for row in rows} == {7392}
    assert {row["scheme"] for row in rows} == {"per_expert"}
    times = [row["time_s"] for row in rows]
    assert times == sorted(times)


def test_equal_rows_on_a_torus_run_as_the_named_all_to_all():
    """Axis by axis, as the default stack goes, every byte crosses three axes; at once the shorter ways are free."""
    torus = ("collective", "dispatch", "--topology", "tpu_v4_4x4x4", "--tokens", "64")
    (by_axis,) = run(*torus)
    (direct,) = run(*torus, "--algorithm", "dimension_ordered")
    assert direct["time_s"] < by_axis["time_s"]
    assert direct["bound_s"] <= direct["time_s"]


def test_copies_of_hot_experts_shorten_a_dispatch():
    hot = (*DISPATCH, "256", "--load", "hot_rank")
    (alone,) = run(*hot)
    (copied,) = run(*hot, "--set", "layout.experts.replicas=64", "--set", "layout.experts.placement=balanced")
    (even,) = run(*DISPATCH, "256")
    assert copied["balance"] > 0.95 > 0.5 > alone["balance"]
    assert even["time_s"] < copied["time_s"] < alone["time_s"]


def test_a_late_chip_makes_others_wait():
    late = "perturb={stragglers: [{chips: [0], delay: 1 ms}]}"
    (row,) = run(*DISPATCH, "1", "--set", late)
    assert row["time_s"] > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tokens", "0"), "--tokens: must be a number from 1 to 1,000,000, or two with a colon between, got '0'"),
        (("--tokens", "8:4"), "--tokens: must go up, got '8:4'"),
        ((), "--tokens: must be a number"),
        (("--tokens", "8", "--size", "1KiB"), "--size: is not supported with dispatch"),
        (("--tokens", "8", "--model", "palm_540b"), "model: must be a model with experts, got 'palm_540b'"),
        (("--tokens", "8", "--load", "zip"), "--set workload.routing.load: must be one of uniform"),
        (("--tokens", "8", "--set", "layout.experts.replicas=3"), "layout.experts.replicas: must make a number"),
        (("--tokens", "8", "--set", "layout.expert=1"), "--set layout.expert: unknown key"),
    ],
)
def test_what_is_no_exchange_is_refused_in_one_line(arguments, message):
    code, said = call("collective", "dispatch", "--topology", "hgx_h200", *arguments)
    assert code == 2
    assert message in said


def test_other_collectives_have_no_tokens():
    code, said = call("collective", "all_reduce", "--topology", "hgx_h200", "--size", "1KiB", "--tokens", "8")
    assert code == 2
    assert "--tokens: is not supported with all_reduce" in said


@pytest.mark.parametrize("algorithm", ["dimension_ordered", "multi_axis"])
def test_unequal_rows_on_a_torus_take_the_named_all_to_all_as_well(algorithm: str):
    """On all axes at once, as a machine that names it; the default stack goes axis by axis."""
    torus = ("collective", "dispatch", "--topology", "tpu_v4_2x2x4", "--tokens", "64", "--load", "zipf")
    (named,) = run(*torus, "--algorithm", algorithm)
    (set_,) = run(*torus, "--set", f"collectives.all_to_all={algorithm}", "--set", "stack.collective_axes=at_once")
    (by_axis,) = run(*torus)
    assert named["time_s"] == set_["time_s"] < by_axis["time_s"]
