"""Specs: strict, frozen models of a user's files: scenarios, models, machines, chips and links.

Quantities are text with a unit in the file and SI floats here. A hardware number may carry where it comes from:
`bandwidth: {value: 45 GB/s, source: "..."}`; every number in the shipped files does.
"""

from typing import Any

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
from sim.specs.suite import (
    AnyConstant,
    AnySuite,
    Calibration,
    Choice,
    CollectiveSuite,
    Constant,
    CopySuite,
    ExchangeSuite,
    GenerationSuite,
    HostTimes,
    MatmulSuite,
    OperationSuite,
    RequestSuite,
    Settings,
    Speedup,
    StepSuite,
    Suite,
    Tolerance,
)
from sim.specs.sweep import FigureSpec
from sim.specs.topology import TopologySpec, TorusSpec

__all__ = [
    "ALGORITHMS",
    "DTYPE_BYTES",
    "FILE_KINDS",
    "LOOP_FORMS",
    "MEDIA",
    "PROTOCOLS",
    "TEXT_RULES",
    "AnyConstant",
    "AnySuite",
    "AxisSpec",
    "Basis",
    "Calibration",
    "ChipSpec",
    "Choice",
    "CollectiveSuite",
    "Constant",
    "CopySuite",
    "Dtype",
    "ExchangeSuite",
    "FigureSpec",
    "Fraction",
    "GenerationSuite",
    "GraphSpec",
    "HostTimes",
    "Kernel",
    "LinkSpec",
    "LoopForm",
    "MatmulSuite",
    "MeasuredSpec",
    "Medium",
    "MemoryPoolSpec",
    "Model",
    "MultimemTimes",
    "NcclSpec",
    "NetworkSpec",
    "NvlsSpec",
    "OperationSuite",
    "PerturbSpec",
    "PipelineSpec",
    "Protocol",
    "RequestSuite",
    "Residual",
    "Scenario",
    "Settings",
    "Software",
    "Sourced",
    "Speedup",
    "StackFile",
    "StackSpec",
    "StepSuite",
    "Strict",
    "Suite",
    "SwitchSpec",
    "Tolerance",
    "TopologySpec",
    "TorusSpec",
]

FILE_KINDS: dict[str, Any] = {
    "scenario": Scenario,
    "topology": TopologySpec,
    "chip": ChipSpec,
    "link": LinkSpec,
    "stack": StackFile,
    "nccl": NcclSpec,
    "network": NetworkSpec,
    "model": Model,
    "suite": AnySuite,
}
"""Kinds of file a user writes, and the model each must satisfy."""
