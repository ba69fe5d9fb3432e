"""Compiled engine: passes a program's columns to `sim.engine.kernel`. Requires numba (the extra `fast`)."""

from __future__ import annotations

import functools
import importlib

import numpy as np
import numpy.typing as npt

from sim.program import FULL_PPM, Program
from sim.program.trace import TIMES, Trace

_MOST = 2.0**62
"""Bound of times and work: the sum of two below it fits in 64 bits."""
_NO_IDS, _NO_TIMES = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.int64)
_NO_FLAGS = np.empty(0, dtype=np.bool_)
_INSTANTS = 5
"""Largest number of instants per task. An instant's number is half of a 64-bit key (`sim.engine.kernel`)."""


@functools.cache
def why_unavailable() -> str:
    """Returns why the compiled engine cannot run here; empty if it can."""
    try:
        importlib.import_module("sim.engine.kernel")
    except ModuleNotFoundError as error:
        if error.name == "numba":
            return "the compiled engine requires numba"
        return _broken(error)
    except Exception as error:  # an installation that does not fit this Python or numpy raises anything
        return _broken(error)
    return ""


def _broken(error: Exception) -> str:
    return f"the compiled engine requires numba, which fails to load: {type(error).__name__}: {error}"


def fits_in_64_bits(program: Program, least_ppm: int) -> bool:
    """Returns True if all times and all work of a program fit in 64 bits, and all task numbers in 31."""
    total = float(program.busy_ps.sum(dtype=np.float64) + program.flight_ps.sum(dtype=np.float64))
    total += float(program.poll_ps.sum(dtype=np.float64))
    if program.slow_ppm.any():
        total = max(total * FULL_PPM / least_ppm, float(program.busy_ps.max(initial=0)) * FULL_PPM)
    return total < _MOST and max(_INSTANTS * len(program), len(program.deps)) < 2**31


def run(program: Program, least_ppm: int) -> tuple[Trace, int]:
    """Returns the trace, with times of -1 for tasks that never ran, and the last instant, ps.

    numba keeps the machine code on disk, so it is compiled once per installation.
    """
    from sim.engine.kernel import RESOURCE, TASK, Columns, loop  # numba is slow to import, and optional

    count, tracked = len(program), _NO_FLAGS
    if program.slow_ppm.any():
        changing = np.zeros(len(program.resources), dtype=np.bool_)
        changing[program.slows[program.slow_ppm != 0]] = True
        tracked = (program.resource >= 0) & changing[program.resource]
    has_chains = bool((program.follows >= 0).any())
    columns = Columns(
        np.ascontiguousarray(program.dep_offset, dtype=np.int32),
        np.ascontiguousarray(program.deps, dtype=np.int32),
        *((program.follows, program.followers()) if has_chains else (_NO_IDS, _NO_IDS)),
        np.ascontiguousarray(program.slows, dtype=np.int32),
        np.ascontiguousarray(program.slow_ppm, dtype=np.int32),
        np.ascontiguousarray(program.yields_ppm, dtype=np.int64),
        np.ascontiguousarray(program.poll_ps if program.poll_ps.any() else _NO_TIMES, dtype=np.int64),
        tracked,
    )
    tasks, times = _aligned(count, TASK), _aligned(count, TIMES)
    tasks["busy"], tasks["flight"], tasks["resource"] = program.busy_ps, program.flight_ps, program.resource
    unknown = times.view(np.int64).reshape(count, 4)
    unknown[:] = -1
    last = loop(tasks, np.zeros(len(program.resources), dtype=RESOURCE), columns, least_ppm, unknown)
    return Trace(program, times), int(last)


def _aligned(count: int, dtype: np.dtype[np.void]) -> npt.NDArray[np.void]:
    """Returns an array of zeros whose records of 32 bytes each lie within one cache line."""
    room = np.zeros(count * dtype.itemsize + 64, dtype=np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + count * dtype.itemsize].view(dtype)
