"""A layer of Ling's experts on TPU7x in fused kernels, against published times of its parts and of the whole."""

from __future__ import annotations

import pytest
from support.validations import validation

from sim.simulate.forward_pass import lower_pass
from sim.studies.validate.cases import read
from sim.studies.validate.runs import OperationRun
from sim.studies.validate.validate import exchange, operation_s

CASES = {case.case_id: case for case in read("ling")[1]}
ROWS, D_MODEL, D_FF, EXPERTS = 16384 * 8 // 32, 8192, 2048, 8
"""Of one device: rows, and experts that it has."""


def run(case_id: str, operations: str = "") -> OperationRun:
    given = CASES[case_id].run
    assert isinstance(given, OperationRun)
    return OperationRun(given.base, given.settings, operations or given.operations)


@pytest.mark.parametrize("fitted", [True, False])
def test_parts_and_layers_are_within_15_percent(fitted: bool):
    found = [each for each in validation("ling").gated if each.fitted == fitted]
    assert len(found) == 2
    assert all(abs(each.error) < 0.15 for each in found)


def test_a_part_is_the_real_rows_of_each_expert_whose_weights_are_read_once():
    """512 rows of each of 8 experts; two matrices of 8-bit weights with a scale of 4 bytes for 128 of them."""
    program = lower_pass(run("tpu7x_prefill_ffn1").scenario())[1].program
    task = program.compute_tasks("experts wi")[0]
    assert program.flops[task] == 2 * ROWS * D_MODEL * 2 * D_FF
    assert program.bytes[task] == EXPERTS * D_MODEL * 2 * D_FF * (1 + 4 / 128)  # rows stay on the chip


def test_a_layer_of_one_kernel_takes_its_parts_one_after_the_other():
    case = run("tpu7x_prefill_layer_v1")
    parts = ("*dispatch experts", "experts wi", "experts activation", "experts wo", "*combine experts")
    assert operation_s(case) == pytest.approx(
        sum(operation_s(run(case_id="tpu7x_prefill_layer_v1", operations=each)) for each in parts)
    )


def test_the_shared_expert_of_the_second_version_runs_under_the_dispatch():
    """The layer has no part of it beside dispatch, routed experts and combine."""
    case = "tpu7x_prefill_layer_v2"
    assert operation_s(run(case, "shared *")) < operation_s(run(case, "*dispatch experts"))
    assert operation_s(run(case)) == pytest.approx(operation_s(run(case, "*experts*")))


def test_direct_messages_are_faster_than_axis_by_axis_as_measured():
    """16 chips, bf16: 2.09 against 3.12 ms, a ratio of 1.49; both within 15 %."""
    rows = {case.case_id: case for case in read("moe")[1]}
    flat, by_axis = (rows[f"all_to_all_{way}_tpu7x_2x2x4_x32_dispatch_bf16_512"] for way in ("flat", "by_axis"))
    times = [exchange(case.run).time_s for case in (flat, by_axis)]  # type: ignore[arg-type]
    assert times[0] < times[1]
    assert times == pytest.approx([flat.published, by_axis.published], rel=0.15)
