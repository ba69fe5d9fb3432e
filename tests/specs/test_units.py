"""Quantities: text with a unit in, SI out, and back without losing a bit."""

from __future__ import annotations

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import units
from sim.errors import InputError


@pytest.mark.parametrize(
    ("text", "unit", "value"),
    [
        ("45 GB/s", "B/s", 45e9),
        ("45GB/s", "B/s", 45e9),
        ("360 Gbit/s", "B/s", 45e9),
        ("32 GiB", "B", 32 * 2**30),
        ("32 GB", "B", 32e9),
        ("8 B", "B", 8),
        ("1 us", "s", 1e-6),
        ("1 µs", "s", 1e-6),
        ("1.5e2 ns", "s", 150e-9),
        ("275 TFLOP/s", "FLOP/s", 275e12),
        ("85 %", "", 0.85),
        (" 1 ms ", "s", 1e-3),
    ],
)
def test_a_quantity_is_read_in_si(text, unit, value):
    assert units.parse(text, unit) == pytest.approx(value, rel=1e-15)


@given(st.floats(min_value=0, max_value=1e21), st.sampled_from(["B/s", "B", "s", "FLOP/s"]))
def test_the_text_of_a_quantity_is_exact(value, unit):
    assert units.parse(units.text(value, unit), unit) == value


@pytest.mark.parametrize("unit", units.EXAMPLES)
def test_the_suggested_units_are_exactly_what_pint_makes_of_them(unit):
    registry: pint.UnitRegistry[float] = pint.UnitRegistry()
    registry.define("FLOP = [operation]")
    for name in units._USUAL[unit]:
        assert units.parse(f"1 {name}", unit) == registry.Quantity(1.0, name).to(unit).magnitude, name


def error(text: str, unit: str) -> str:
    with pytest.raises(InputError) as caught:
        units.parse(text, unit)
    return str(caught.value)


def test_a_number_without_a_unit_is_an_error():
    assert error("45", "B/s") == "must be a number with a unit such as '45 GB/s', got '45'"
    for text in ("", "GB", "1,5 GB", "nan GB", "inf GB", "1 GB GB", "４ GB", "1 2"):
        assert error(text, "B").startswith("must be a number with a unit such as '32 GiB', got ")


def test_a_unit_of_another_dimension_is_named_for_what_it_is():
    assert error("45 GB", "B/s").endswith("'GB' is a size, not a bandwidth; did you mean 'GB/s'?")
    assert error("1 us", "B").endswith("'us' is a time, not a size; choose from B, GB, GiB, KiB, MB, MiB, TB, TiB, kB")
    assert error("32 GB/s", "B").endswith("'GB/s' is a bandwidth, not a size; did you mean 'GB'?")


@pytest.mark.parametrize(
    ("text", "unit", "suggestion"),
    [
        ("45 GBps", "B/s", "GB/s"),
        ("45 GBs", "B/s", "GB/s"),
        ("32 gib", "B", "GiB"),
        ("275 TFLOPS", "FLOP/s", "TFLOP/s"),
        ("275 TFLOP", "FLOP/s", "TFLOP/s"),
        ("1 usec", "s", "us"),
    ],
)
def test_a_typo_in_a_unit_gets_a_suggestion(text, unit, suggestion):
    assert error(text, unit).endswith(f"'{text.split()[1]}' is not a unit; did you mean '{suggestion}'?")


def test_a_small_b_may_mean_bits_or_bytes():
    # A factor of 8: never guessed.
    assert error("45 Gb/s", "B/s").endswith("did you mean 'GB/s' (bytes) or 'Gbit/s' (bits)?")
    assert error("400 Gbps", "B/s").endswith("did you mean 'GB/s' (bytes) or 'Gbit/s' (bits)?")


def test_numbers_beyond_a_float_are_an_error():
    assert error("1e999 s", "s").endswith("the number is too large")


def test_the_clock_counts_picoseconds_in_63_bits():
    assert units.to_ps(1.5e-12) == 2
    assert units.to_ps(1.0) == 10**12
    for seconds in (1e7, float("inf"), float("nan")):
        with pytest.raises(OverflowError):
            units.to_ps(seconds)


def test_sizes_and_times_are_shown_with_a_fitting_prefix():
    assert [units.format_bytes(v) for v in (8, 1536, 32 * 2**30)] == ["8 B", "1.50 KiB", "32.00 GiB"]
    assert [units.format_seconds(v) for v in (0, 2e-9, 2.42e-4, 1.82)] == ["0 s", "2 ns", "242 us", "1.82 s"]
    assert [units.format_seconds(v) for v in (6e-12, -6e-12)] == ["0 s", "0 s"]
    assert [units.format_change(v) for v in (6e-12, -6e-12, 2e-9, -2.42e-4)] == ["0 s", "0 s", "+2 ns", "-242 us"]


def test_counts_and_shares_as_text():
    assert [units.format_count(n, "chip") for n in (0, 1, 4096)] == ["0 chips", "1 chip", "4,096 chips"]
    assert [units.format_percent(x) for x in (0.0, 0.00142, 0.409)] == ["0.0%", "0.14%", "40.9%"]
    assert units.format_seconds(12_345.6) == "12,346 s"
