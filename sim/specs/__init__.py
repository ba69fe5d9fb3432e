"""Specs: strict, frozen models of a user's files: scenarios, models, machines, chips and links.

Quantities are text with a unit in the file and SI floats here. A hardware number may carry where it comes from:
`bandwidth: {value: 45 GB/s, source: "..."}`; every number in the shipped files does.
"""

from sim.specs.algorithms import ALGORITHMS, LOOP_FORMS, LoopForm
from sim.specs.base import TEXT_RULES, Strict
from sim.specs.chip import DTYPE_BYTES, ChipSpec, Dtype
from sim.specs.engine import Kernel
from sim.specs.graph import GraphSpec, SwitchSpec
from sim.specs.layout import Residual
from sim.specs.link import MEDIA, LinkSpec, Medium
from sim.specs.machine import AxisSpec
from sim.specs.memory_pool import MemoryPoolSpec
from sim.specs.model import Model
from sim.specs.nccl import MeasuredSpec, NcclSpec, NvlsSpec
from sim.specs.network import PROTOCOLS, NetworkSpec, Protocol
from sim.specs.perturb import PerturbSpec
from sim.specs.pipeline import PipelineSpec
from sim.specs.quantities import Basis, Fraction, Sourced
from sim.specs.scenario import Scenario
from sim.specs.stack import MultimemTimes, Software, StackFile, StackSpec
from sim.specs.sweep import FigureSpec
from sim.specs.topology import TopologySpec, TorusSpec

__all__ = [
    "ALGORITHMS",
    "DTYPE_BYTES",
    "LOOP_FORMS",
    "MEDIA",
    "PROTOCOLS",
    "TEXT_RULES",
    "AxisSpec",
    "Basis",
    "ChipSpec",
    "Dtype",
    "FigureSpec",
    "Fraction",
    "GraphSpec",
    "Kernel",
    "LinkSpec",
    "LoopForm",
    "MeasuredSpec",
    "Medium",
    "MemoryPoolSpec",
    "Model",
    "MultimemTimes",
    "NcclSpec",
    "NetworkSpec",
    "NvlsSpec",
    "PerturbSpec",
    "PipelineSpec",
    "Protocol",
    "Residual",
    "Scenario",
    "Software",
    "Sourced",
    "StackFile",
    "StackSpec",
    "Strict",
    "SwitchSpec",
    "TopologySpec",
    "TorusSpec",
]
