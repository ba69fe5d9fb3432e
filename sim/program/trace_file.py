"""File trace.npz: times of every simulated task. The program, lowered again from the scenario, gives the ends."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sim.program import Period
from sim.program.columns import Program
from sim.program.trace import TIMES, Trace

_COLUMNS = ("ready", "start", "free")
_NPY_HEADER_BYTES = 2**12
"""Upper bound of what numpy writes before the values of a column."""
_LATEST_PS = 2**62
"""Latest time of a trace: sums of two stay below 2**63."""


def write(trace: Trace, periods: Sequence[Period], path: Path) -> None:
    """Writes the times of a trace, and the periods of the layers that were left out."""
    columns = {name: trace.times[name] for name in _COLUMNS}
    if skipped := trace.program.skipped:
        columns |= {"kept": np.array(skipped[0].kept), "periods": np.array(periods)}
    np.savez_compressed(path, allow_pickle=False, **columns)


def read_kept(path: Path) -> int | None:
    """Returns how many copies of a layer were simulated; None for all.

    Raises:
        Exception: whatever numpy or zipfile raises on a damaged archive.
    """
    with zipfile.ZipFile(path) as archive:
        if "kept.npy" not in archive.namelist():
            return None
        kept = int(_column(archive, "kept", ()))
    if kept < 0:
        raise ValueError(f"{kept} copies of a layer")
    return kept


def read_times(path: Path, program: Program) -> tuple[npt.NDArray[np.void], tuple[Period, ...]]:
    """Returns [tasks] rows of TIMES without their ends, and the periods of the layers that were left out.

    Raises:
        ValueError: they do not belong to the program; on a damaged archive, whatever numpy or zipfile raises.
    """
    with zipfile.ZipFile(path) as archive:
        times = np.empty(len(program), dtype=TIMES)
        for name in _COLUMNS:
            times[name] = _column(archive, name, (len(program),))
        periods = _column(archive, "periods", (len(program.skipped), 2)).tolist() if program.skipped else []
    before = np.zeros(len(program), dtype=np.int64)
    for name in _COLUMNS:
        if (times[name] < before).any() or (times[name] > _LATEST_PS).any():
            raise ValueError(f"times '{name}' out of order")
        before = times[name]
    for block, (after, period_ps) in zip(program.skipped, periods, strict=True):
        if not 0 <= after <= block.kept or not 0 <= period_ps <= _LATEST_PS // max(block.count, 1):
            raise ValueError(f"a period of {period_ps} ps after copy {after}")
    return times, tuple((after, period_ps) for after, period_ps in periods)


def _column(archive: zipfile.ZipFile, name: str, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Returns a column of integers. Raises ValueError if its file is larger than its values."""
    member = archive.getinfo(f"{name}.npy")
    most = 8 * prod(shape) + _NPY_HEADER_BYTES
    if member.file_size > most:
        raise ValueError(f"{member.file_size} bytes of '{name}', at most {most} are its values")
    data = io.BytesIO(archive.read(member))
    version = np.lib.format.read_magic(data)
    found = np.lib.format.read_array_header_1_0(data) if version == (1, 0) else None
    if found != (shape, False, np.dtype(np.int64)):
        raise ValueError(f"'{name}' of another shape or type")
    return np.frombuffer(data.read(), dtype=np.int64).reshape(shape)
