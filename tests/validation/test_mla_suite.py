"""Published times of kernels of latent attention against the same operation of a layer's pass."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.validations import validation

from sim.errors import InputError
from sim.report.present.validation import Errors
from sim.simulate.forward_pass import lower_pass
from sim.specs import load
from sim.studies.validate.cases import read
from sim.studies.validate.runs import OperationRun
from sim.studies.validate.validate import operation_s, validate


def errors(kernel):
    return Errors.of(each.error for each in validation("mla").gated if each.series.startswith(kernel))


@pytest.mark.parametrize(("kernel", "count"), [("FlashMLA decode attention", 28), ("MLA prefill attention", 4)])
def test_kernels_are_within_10_percent_and_nine_in_ten_within_25(kernel, count):
    found = errors(kernel)
    assert found.cases == count
    assert found.median < 0.10
    assert found.nine_in_ten < 0.25


def test_a_row_is_the_operation_of_one_layer_with_a_cache_as_long_as_it_says():
    """16 sequences of 4096 positions, 128 heads: scores over 576 values and outputs of 512, of one query each."""
    case = next(each for each in read("mla")[1] if each.case_id == "h800_decode_b16_4096")
    assert isinstance(case.run, OperationRun)
    program = lower_pass(case.run.scenario())[1].program
    (task,) = program.compute_tasks("attention")
    # The step's own position is in the cache that it attends to.
    assert program.flops[task] == pytest.approx(2 * 16 * 128 * 4096 * (576 + 512), rel=1 / 4096)
    assert operation_s(case.run) == program.busy_ps[task] / 1e12


def test_rows_of_ones_own_name_their_mistakes(tmp_path: Path):
    path = load.path("suite", "mla").with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        first = next(csv.DictReader(file))
    own = tmp_path / "rows.csv"
    for change, message in (
        ({"operation": "atention"}, "must be an operation of the pass, got 'atention'; did you mean 'attention'"),
        ({"phase": "decoding"}, "unknown phase, got 'decoding'"),
        ({"system": "H8000"}, "must fit a pattern of the suite's 'systems', got 'H8000'"),
    ):
        with own.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, first)
            table.writeheader()
            table.writerow(first | change)
        with pytest.raises(InputError, match=message):
            validate("mla", own)
