"""Published times of single matmuls, dense and grouped, against their cost on the chip and the stack that ran them."""

from __future__ import annotations

import pytest
from support.validations import validation

from sim.cli import main
from sim.errors import InputError
from sim.lowering.costs import Work, cost
from sim.report.present.validation import Errors
from sim.specs import load
from sim.studies.validate.cases import read
from sim.studies.validate.runs import MatmulRun
from sim.studies.validate.validate import matmul_s, validate
from sim.topology import build


@pytest.fixture(scope="module")
def gemm():
    return validation("gemm")


def errors(validation, *series):
    """Of the rows of series whose name begins so."""
    return Errors.of(each.error for each in validation.gated if each.series.startswith(series))


@pytest.mark.parametrize(("series", "count"), [(("H100, ",), 135), (("H800, DeepGEMM dense",), 77), (("H800, ",), 179)])
def test_matmuls_of_a_table_are_within_10_percent_and_nine_in_ten_within_25(gemm, series, count):
    found = errors(gemm, *series)
    assert found.cases == count
    assert found.median < 0.10
    assert found.nine_in_ten < 0.25


def test_grouped_matmuls_are_within_5_percent_and_nine_in_ten_within_15(gemm):
    """Masked and contiguous kernels of DeepGEMM; the rows of one and two experts, drawn once, are among them."""
    found = errors(gemm, "H800, DeepGEMM grouped")
    assert found.cases == 102
    assert found.median < 0.05
    assert found.nine_in_ten < 0.15


def test_chips_that_nothing_was_fitted_to_are_carried_by_shares_of_their_peak(gemm):
    """16-bit matmuls of A100 and the best shapes of B200, GB200 and H200, from constants of H100."""
    own = [each for each in gemm.gated if each.series.split(",")[0] in ("A100", "A100 PCIe", "B200", "GB200", "H200")]
    assert not any(each.fitted for each in own)
    found = Errors.of(each.error for each in own)
    assert found.cases == 12
    assert found.median < 0.10
    assert found.nine_in_ten < 0.25


def test_a_row_is_the_cost_of_its_matmul():
    """[m, k] x [k, n] of 8-bit numbers: operands of a byte and a share of a scale, products of two bytes."""
    case = next(each.run for each in read("gemm")[1] if each.case_id == "h800_fp8_1x64x1536x7168")
    chip = build(*load.machine(case.machine, list(case.settings))).chip
    work = Work(2.0 * 64 * 1536 * 7168, (64 + 1536) * 7168 * 33 / 32 + 2 * 64 * 1536, rows=64, columns=1536)
    assert matmul_s(case) == cost(chip, work, "fp8").duration_ps / 1e12


def run_of(**fields):
    given = {"machine": "hgx_h800", "settings": ('stack="deep_gemm"',), "columns": 4096, "inner": 7168, "dtype": "fp8"}
    return MatmulRun(**given, **fields)


def test_half_of_the_experts_of_one_row_on_average_have_none_and_their_weights_are_not_read():
    """Rows from 0.7 to 1.3, rounded down, are one row for 128 of 256 experts, as for 128 experts of one row each."""
    spread = matmul_s(run_of(rows=1, products=256, spread=0.3))
    assert spread == matmul_s(run_of(rows=1, products=128, spread=0.0))
    assert matmul_s(run_of(rows=1, products=256, spread=0.0)) > 1.9 * spread


def test_rows_that_differ_take_more_tiles_than_equal_ones():
    """64 rows are a tile of 64; of 45 to 83 rows half are two tiles, whose products take longer than the weights."""
    equal, spread = (matmul_s(run_of(rows=64, products=32, spread=share)) for share in (0.0, 0.3))
    assert 1.05 < spread / equal < 1.5


def test_rows_of_ones_own_name_their_mistakes(tmp_path):
    header = "case_id,system,dtype,m,n,k,time_us"
    path = tmp_path / "rows.csv"
    for row, message in (
        ("a,H1000,bf16,1,2,3,4", "must fit a pattern of the suite's 'machines', got 'H1000'"),
        ("a,H100,bf17,1,2,3,4", "must be a number format, got 'bf17'"),
        ("a,H100,bf16,x,2,3,4", "column 'm' must be a whole number"),
    ):
        path.write_text(f"{header}\n{row}\n", encoding="utf-8")
        with pytest.raises(InputError, match=message):
            validate("gemm", path)


def test_the_command_shows_series(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sim", "validate", "gemm", "--no-plots"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    assert "H800, DeepGEMM dense GEMM" in capsys.readouterr().out
