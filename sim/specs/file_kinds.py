"""Kinds of file a user writes."""

from importlib import import_module
from typing import Any

FILE_KINDS = {
    "scenario": "scenario.Scenario",
    "topology": "topology.TopologySpec",
    "chip": "chip.ChipSpec",
    "link": "link.LinkSpec",
    "stack": "stack.StackFile",
    "nccl": "nccl.NcclSpec",
    "network": "network.NetworkSpec",
    "model": "model.Model",
    "suite": "suite.AnySuite",
}
"""Module and name of the model that each kind must satisfy."""


def file_model(kind: str) -> Any:
    """Returns the model that files of a kind must satisfy; its module is imported when it is first asked for."""
    module, _, name = FILE_KINDS[kind].partition(".")
    return getattr(import_module(f"sim.specs.{module}"), name)
