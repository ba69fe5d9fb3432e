"""Program: what the engine runs, and what happened. Tasks as columns go in, their times come out.

`columns` has the tasks, `batches` where a pipeline's batches are among them, `trace` their times, `perturb` what slows
or fails. Imports: specs, topology.
"""

from sim.program.columns import COLUMNS, FULL_PPM, Floats, Ids, Ints, Kind, Period, Program, ProgramBuilder, Skipped

__all__ = ["COLUMNS", "FULL_PPM", "Floats", "Ids", "Ints", "Kind", "Period", "Program", "ProgramBuilder", "Skipped"]
