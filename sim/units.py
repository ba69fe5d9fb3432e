"""Units at the edge: text such as `45 GB/s` becomes a float in SI units (bytes, seconds, FLOP), and back.

`GB` is always 1e9 bytes, `GiB` always 2**30 bytes, and a unit that makes no sense here does not parse.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Sequence

from sim.errors import InputError, suggest

PS_PER_S = 1_000_000_000_000

EXACTLY = 1 - 1e-12
"""Times what comes out of a few floating-point operations, and is less than any whole number it may stand for."""
NEGLIGIBLE_PS = 1e-4
"""Longest duration that is rounded down to 0, ps."""

CLOCK_S = 2**63 / PS_PER_S
"""Range of a clock of 63 bits, s: 106 days."""

_PREFIXES = {
    1.0: "",
    1e-12: "p pico",
    1e-9: "n nano",
    1e-6: "u µ micro",
    1e-3: "m milli",
    1e3: "k kilo",
    1e6: "M mega",
    1e9: "G giga",
    1e12: "T tera",
    1e15: "P peta",
    2.0**10: "Ki kibi",
    2.0**20: "Mi mebi",
    2.0**30: "Gi gibi",
    2.0**40: "Ti tebi",
}
_NAMES: dict[str, dict[str, float]] = {
    "s": {"s": 1.0, "second": 1.0, "seconds": 1.0},
    "B": {"B": 1.0, "byte": 1.0, "bytes": 1.0, "bit": 1 / 8, "bits": 1 / 8},
    "FLOP": {"FLOP": 1.0, "FLOPs": 1.0},
    "": {"%": 0.01, "percent": 0.01},
}
_UNITS = {
    si: {
        prefix + name: times * size
        for times, prefixes in _PREFIXES.items()
        for prefix in prefixes.split(" ")
        for name, size in names.items()
    }
    for si, names in _NAMES.items()
}
"""SI unit -> other units of the same measure, and how many SI units one of them is."""
_UNITS["m"] = {"m": 1.0, "in": 0.0254, "inch": 0.0254, "cm": 0.01, "mm": 0.001}

PATTERN = r"^\s*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*((?:[A-Za-zµ]+|%)(?:/[A-Za-z]+)?)\s*$"
"""A number and a unit, as a regular expression of Python and of JSON Schema."""

_NUMBER_AND_UNIT = re.compile(PATTERN)

EXAMPLES = {
    "B/s": "45 GB/s",
    "B": "32 GiB",
    "s": "1 us",
    "FLOP/s": "275 TFLOP/s",
    "": "10 %",
    "m": "3.3 in",
}
_MEASURES = {
    "B/s": "a bandwidth",
    "B": "a size",
    "s": "a time",
    "FLOP/s": "a compute rate",
    "": "a share",
    "m": "a length",
}
_SIZES = [f"{prefix}B" for prefix in ("", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti")]
_USUAL = {
    "B/s": [*(f"{size}/s" for size in _SIZES), "Gbit/s"],
    "B": _SIZES,
    "s": ["ps", "ns", "us", "ms", "s"],
    "FLOP/s": ["MFLOP/s", "GFLOP/s", "TFLOP/s", "PFLOP/s"],
    "": ["%"],
    "m": ["in", "cm", "mm"],
}
"""Units to suggest."""


@functools.cache
def parse(text: str, unit: str) -> float:
    """Value of `text` in the SI `unit` (one of EXAMPLES' keys).

    Raises:
        InputError: no number and unit, an unknown unit, or a unit of another dimension.
    """
    rule = f"must be a number with a unit such as '{EXAMPLES[unit]}'"
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise InputError(rule, got=text)
    number, name = match.groups()
    factor = _factor(name, unit)
    if factor is None:
        other = next((what for si, what in _MEASURES.items() if _factor(name, si) is not None), "")
        meaning = f"'{name}' is {other}, not {_MEASURES[unit]}" if other else f"'{name}' is not a unit"
        raise InputError(rule, got=text, hint=f"{meaning}; {_suggestion(name, unit)}")
    value = float(number) * factor
    if not math.isfinite(value):
        raise InputError(rule, got=text, hint="the number is too large")
    return value


def _factor(name: str, unit: str) -> float | None:
    """Returns the number of SI units of one `name`; None if it is no unit or measures something else."""
    above, per, below = name.partition("/")
    size = _UNITS[unit.removesuffix("/s")].get(above)
    time = _UNITS["s"].get(below) if unit.endswith("/s") else None if per else 1.0
    return None if size is None or time is None else size / time


def _suggestion(name: str, unit: str) -> str:
    if bits := re.fullmatch(r"([kMGT]?)b(/s|ps)?", name):  # a factor of 8 either way
        per_s = "/s" if unit == "B/s" else ""
        return f"did you mean '{bits[1]}B{per_s}' (bytes) or '{bits[1]}bit{per_s}' (bits)?"
    return suggest(name, _USUAL[unit])


def text(value: float, unit: str) -> str:
    """Exact text form of an SI value: `parse(text(v, u), u) == v`."""
    return f"{value!r} {unit}"


def to_ps(seconds: float) -> int:
    """Whole picoseconds, the simulator's clock (rounds half to even).

    Raises:
        OverflowError: longer than the clock counts.
    """
    if not seconds < CLOCK_S:
        raise OverflowError(f"{seconds:g} s are longer than the clock counts")
    return round(seconds * PS_PER_S)


def to_ps_or_more(seconds: float) -> int:
    """Whole picoseconds, rounded up but for floating-point error, so that nothing is faster than its rate allows.

    Raises:
        OverflowError: longer than the clock counts.
    """
    nearest = to_ps(seconds)
    return nearest + (nearest < seconds * PS_PER_S * EXACTLY - NEGLIGIBLE_PS)


def on_clock(time_ps: int) -> int:
    """Returns a time, or a sum of times, that fits in the clock's 63 bits, ps.

    Raises:
        OverflowError: it does not.
    """
    if time_ps >= 2**63:
        raise OverflowError(f"{time_ps / PS_PER_S:g} s are longer than the clock counts")
    return time_ps


BYTE_UNITS = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
"""Bytes per unit and its name, largest first."""


def format_bytes(value: float) -> str:
    """`1.50 GiB`: binary prefixes, for memory."""
    for size, name in BYTE_UNITS:
        if abs(value) >= size:
            return f"{value / size:.2f} {name}"
    return f"{value:.0f} B"


def format_count(value: int, noun: str) -> str:
    """`1 chip`, `4,096 chips`."""
    return f"{value:,} {noun}{'s' * (value != 1)}"


def format_list(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


def format_percent(share: float) -> str:
    """`40.9%`, `0.14%`: one decimal, below one percent two."""
    return f"{share:.2%}" if abs(share) < 0.01 and share else f"{share:.1%}"


LEAST_SHOWN_S = 1e-9
"""Shorter times are written as 0 s: tasks take whole picoseconds, and rounding many of them leaves less."""

TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (LEAST_SHOWN_S, "ns"))
"""Seconds per unit and its name, largest first."""


def format_seconds(value: float) -> str:
    """`28.5 ms`, `242 us`: four significant digits and a fitting prefix; from 10,000 s on whole seconds."""
    if abs(value) >= 1e4:
        return f"{value:,.0f} s"
    for size, name in TIME_UNITS:
        if abs(value) >= size:
            return f"{value / size:.4g} {name}"
    return "0 s"


def format_change(value: float) -> str:
    """A difference of times with its sign: `+28.5 ms`, `-242 us`, `0 s`."""
    return ("+" if value >= LEAST_SHOWN_S else "") + format_seconds(value)
