"""Search: every layout and attention sharding of a model on some machines at some batches, and the best."""

from sim.search.candidates import BASE, Phase, batches, candidates
from sim.search.choose import OBJECTIVES, best, best_per_batch, fitting, pareto
from sim.search.doubt import rest_on, sensitive
from sim.search.figure import Measured, chart, published
from sim.search.machines import Counts, Machine, counts, machines

__all__ = [
    "BASE",
    "OBJECTIVES",
    "Counts",
    "Machine",
    "Measured",
    "Phase",
    "batches",
    "best",
    "best_per_batch",
    "candidates",
    "chart",
    "counts",
    "fitting",
    "machines",
    "pareto",
    "published",
    "rest_on",
    "sensitive",
]
