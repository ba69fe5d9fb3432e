"""Search: every layout and attention sharding of a model over meshes of some machines at some batches, and the best.

In: a model, machines, what is asked for. Out: rows of a sweep, the best of them, why they are, and a figure.
"""

from sim.studies.search.bound import min_step_s
from sim.studies.search.candidates import BASE, OWN, Phase, Work, list_candidates, parse_batches, parse_names
from sim.studies.search.choose import Goal, chip_names, fastest_rows, parse_goal
from sim.studies.search.doubt import describe_stacks, list_assumptions, winner_sensitivity
from sim.studies.search.figure import PublishedStep, build_chart, published_steps
from sim.studies.search.machines import Counts, Machine, list_machines, parse_counts
from sim.studies.search.pruned import KEPT, run_candidates
from sim.studies.search.result import SearchResult

__all__ = [
    "BASE",
    "KEPT",
    "OWN",
    "Counts",
    "Goal",
    "Machine",
    "Phase",
    "PublishedStep",
    "SearchResult",
    "Work",
    "build_chart",
    "chip_names",
    "describe_stacks",
    "fastest_rows",
    "list_assumptions",
    "list_candidates",
    "list_machines",
    "min_step_s",
    "parse_batches",
    "parse_counts",
    "parse_goal",
    "parse_names",
    "published_steps",
    "run_candidates",
    "winner_sensitivity",
]
