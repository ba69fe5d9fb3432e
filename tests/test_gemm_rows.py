"""Published times of single matmuls, dense and grouped, against their cost on the chip and the stack that ran them."""

import csv
from pathlib import Path

import numpy as np
import pytest

from sim import load
from sim import topology as machines
from sim.costs import Work, cost

ROWS = Path(__file__).parent.parent / "scenarios/published/gemm.csv"
MACHINES = {
    "H100": ("dgx_h100", "best_kernels"),
    "A100": ("dgx_a100", "best_kernels"),
    "A100 PCIe": ("a100_pcie_bridges", "best_kernels"),
    "H200": ("hgx_h200", "best_kernels"),
    "B200": ("hgx_b200", "best_kernels"),
    "GB200": ("gb200_nvl72", "best_kernels"),
    "MI355X": ("mi355x", "best_kernels"),
    "H800": ("dgx_h100", "deep_gemm"),
}
EIGHT_BITS = {"fp8": "int8"}
"""Matrix units multiply 8-bit floats and integers at one rate."""


def errors(*kernels_or_systems):
    """Simulated / published - 1 of the rows of some systems or kernels."""
    found = []
    for row in csv.DictReader(ROWS.read_text(encoding="utf-8").splitlines()):
        if not {row["system"], row["kernel"]} & set(kernels_or_systems):
            continue
        machine, stack = MACHINES[row["system"]]
        chip = machines.build(*load.machine(machine, [f"stack={stack}"])).chip
        m, n, k, products = (float(row[name]) for name in ("m", "n", "k", "products"))
        dtype = EIGHT_BITS.get(row["dtype"], row["dtype"])
        size = 1 if dtype == "int8" else 2  # of an operand; products of 8-bit numbers are written as 16-bit ones
        moved = products * ((m * k + k * n) * size + m * n * 2)
        work = Work(2 * m * n * k * products, moved, rows=m, columns=n, products=products)
        found.append(cost(chip, work, dtype).duration_ps * 1e-6 / float(row["time_us"]) - 1)
    return np.abs(found)


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ("H100", 135),
        ("DeepGEMM dense GEMM", 77),
        ("DeepGEMM grouped GEMM prefill", 32),
        ("H800", 179),
    ],
)
def test_matmuls_of_a_table_are_within_10_percent_and_nine_in_ten_within_25(rows, count):
    found = errors(rows)
    assert len(found) == count
    assert np.median(found) < 0.10
    assert np.quantile(found, 0.9) < 0.25


def test_chips_that_nothing_was_fitted_to_are_carried_by_shares_of_their_peak():
    """16-bit matmuls of A100 and the best shapes of B200, GB200, H200 and MI355X, from constants of H100."""
    found = errors("A100", "A100 PCIe", "B200", "GB200", "H200", "MI355X")
    assert len(found) == 13
    assert np.median(found) < 0.10
    assert np.quantile(found, 0.9) < 0.25
