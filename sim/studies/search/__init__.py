"""Search: every layout and attention sharding of a model over meshes of some machines at some batches, and the best.

In: a model, machines, what is asked for. Out: rows of a sweep, the best of them, why they are, and a figure.
"""

from sim.studies.search.bound import least_step_s
from sim.studies.search.candidates import BASE, OWN, Phase, Work, batches, candidates, named
from sim.studies.search.choose import Goal, chips_of_topologies, goal, nearest
from sim.studies.search.doubt import rest_on, sensitive
from sim.studies.search.figure import Measured, chart, published
from sim.studies.search.machines import Counts, Machine, counts, machines
from sim.studies.search.pruned import KEPT, searched
from sim.studies.search.result import SearchResult
from sim.studies.search.why import PARTS, why

__all__ = [
    "BASE",
    "KEPT",
    "OWN",
    "PARTS",
    "Counts",
    "Goal",
    "Machine",
    "Measured",
    "Phase",
    "SearchResult",
    "Work",
    "batches",
    "candidates",
    "chart",
    "chips_of_topologies",
    "counts",
    "goal",
    "least_step_s",
    "machines",
    "named",
    "nearest",
    "published",
    "rest_on",
    "searched",
    "sensitive",
    "why",
]
