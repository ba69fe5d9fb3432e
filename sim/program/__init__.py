"""Program: what the engine runs, and what happened. Tasks as columns go in, their times come out.

`columns` holds the tasks, `builder` appends them, `batches` locates a pipeline's batches in them, `trace` holds their
times, and `perturb` slows tasks down. Imports: specs, topology.
"""

from sim.program.builder import Labels, Occupancy, ProgramBuilder, Waits
from sim.program.cache_transfer import CacheTransfer
from sim.program.columns import COLUMNS, FULL_PPM, Floats, Ids, Ints, Kind, Period, Program, Skipped, renumber
from sim.program.expert_rows import ExpertRows

__all__ = [
    "COLUMNS",
    "FULL_PPM",
    "CacheTransfer",
    "ExpertRows",
    "Floats",
    "Ids",
    "Ints",
    "Kind",
    "Labels",
    "Occupancy",
    "Period",
    "Program",
    "ProgramBuilder",
    "Skipped",
    "Waits",
    "renumber",
]
