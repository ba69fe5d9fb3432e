"""Units at the edge: text such as `45 GB/s` becomes a float in SI units (bytes, seconds, FLOP), and back.

pint does the arithmetic on a registry that holds only the units this project speaks, so `GB` is always 1e9 bytes,
`GiB` always 2**30 bytes, and a unit that makes no sense here does not parse.
"""

from __future__ import annotations

import functools
import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pint

PS_PER_S = 1_000_000_000_000

_DEFINITIONS = (
    "pico- = 1e-12 = p-",
    "nano- = 1e-9 = n-",
    "micro- = 1e-6 = u- = µ-",
    "milli- = 1e-3 = m-",
    "kilo- = 1e3 = k-",
    "mega- = 1e6 = M-",
    "giga- = 1e9 = G-",
    "tera- = 1e12 = T-",
    "peta- = 1e15 = P-",
    "kibi- = 1024 = Ki-",
    "mebi- = 1048576 = Mi-",
    "gibi- = 1073741824 = Gi-",
    "tebi- = 1099511627776 = Ti-",
    "second = [time] = s",
    "bit = [data] = bit",
    "byte = 8 * bit = B",
    "FLOP = [operation] = FLOP",
    "percent = 0.01 = %",
)

_NUMBER_AND_UNIT = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*((?:[A-Za-zµ]+|%)(?:/[A-Za-z]+)?)\s*")

EXAMPLES = {
    "B/s": "45 GB/s",
    "B": "32 GiB",
    "s": "1 us",
    "FLOP/s": "275 TFLOP/s",
    "": "10 %",
}


@functools.cache
def _registry() -> pint.UnitRegistry:
    import pint  # 0.15 s: only where a quantity is really parsed

    registry = pint.UnitRegistry(None)
    registry.load_definitions(list(_DEFINITIONS))
    return registry


@functools.cache
def parse(text: str, unit: str) -> float:
    """Value of `text` in the SI `unit` (one of EXAMPLES' keys).

    Raises:
        ValueError: no number and unit, an unknown unit, or a unit of another dimension; the message states the rule.
    """
    import pint

    example = EXAMPLES[unit]
    rule = f"must be a number with a unit such as '{example}'"
    match = _NUMBER_AND_UNIT.fullmatch(text)
    if match is None:
        raise ValueError(rule)
    number, name = match.groups()
    try:
        factor = float(_registry().Quantity(1.0, name).to(unit).magnitude)
    except pint.UndefinedUnitError:
        raise ValueError(f"{rule}; '{name}' is not a known unit") from None
    except (pint.PintError, AssertionError):
        raise ValueError(f"{rule}; '{name}' measures something else") from None
    value = float(number) * factor
    if not math.isfinite(value):
        raise ValueError(f"{rule}; the number is not finite")
    return value


def text(value: float, unit: str) -> str:
    """Exact text form of an SI value: `parse(text(v, u), u) == v`."""
    return f"{value!r} {unit}"


def to_ps(seconds: float) -> int:
    """Whole picoseconds, the simulator's clock (rounds half to even)."""
    return round(seconds * PS_PER_S)


_BINARY = ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))


def format_bytes(value: float) -> str:
    """`1.50 GiB`: binary prefixes, for memory."""
    for size, name in _BINARY:
        if abs(value) >= size:
            return f"{value / size:.2f} {name}"
    return f"{value:.0f} B"


def format_seconds(value: float) -> str:
    """`28.5 ms`, `242 us`: four significant digits and a fitting prefix."""
    for size, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if abs(value) >= size:
            return f"{value / size:.4g} {name}"
    return "0 s" if value == 0 else f"{value * 1e12:.4g} ps"
