"""Stages: the chips and layers of each, and its chips as a machine of their own."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from sim.lowering.machine_part import cut_machine
from sim.lowering.placement import stage_axes, stage_count
from sim.program import Ids
from sim.specs import Scenario
from sim.topology.folding import NotFoldableError, folded, folded_by, numbered_ports, unlike
from sim.topology.graph import Folding, Topology


class Stage(Struct, frozen=True):
    """A stage of a pipeline."""

    index: int
    first_layer: int
    layers: int
    is_first: bool
    """True if it embeds the tokens."""
    is_last: bool
    """True if it computes the logits."""
    chips: Ids
    """Its chips, as the scenario's machine numbers them: where that is folded, the one that stands for all."""
    links: Ids
    """The machine's link for each of its own."""
    topology: Topology
    """Its chips and the links between them."""
    all_chips: Ids
    """Its chips, as the whole machine numbers them."""


def layers_of(scenario: Scenario) -> tuple[int, ...]:
    """Returns the layers of each stage: as the scenario says, else equal, the remainder in the last stages
    (EnergonAI)."""
    given = scenario.pipeline.stages if scenario.pipeline else None
    if given:
        return tuple(given)
    stages = stage_count(scenario)
    layers_each, remainder = divmod(scenario.layers, stages)
    return tuple(layers_each + (stage >= stages - remainder) for stage in range(stages))


def stages_of(scenario: Scenario, topology: Topology) -> tuple[Stage, ...]:
    """The stages of a scenario on its machine (`sim.lowering.placement.mesh_of`), or on that folded
    (`folded_by_stage`): the chips at one position of the stages' mesh axes each."""
    if topology.folding:
        return tuple(_fold_stage(stage, topology.folding) for stage in stages_of(scenario, topology.folding.machine))
    layers = layers_of(scenario)
    result = []
    for index, part in enumerate(cut_machine(topology, stage_axes(scenario))):
        result.append(
            Stage(
                index=index,
                first_layer=sum(layers[:index]),
                layers=layers[index],
                is_first=index == 0,
                is_last=index == len(layers) - 1,
                chips=part.chips,
                links=part.links,
                topology=part.topology,
                all_chips=part.chips,
            )
        )
    return tuple(result)


def folded_by_stage(scenario: Scenario, machine: Topology) -> Topology:
    """The machine with one chip of each stage, which stands for all of them.

    Raises:
        NotFoldableError: the chips of a stage are not all alike.
    """
    stand_in = np.empty(machine.chips, dtype=np.int32)
    for stage in stages_of(scenario, machine):
        if not stage.topology.is_vertex_transitive:
            raise NotFoldableError(f"in a stage {unlike(stage.topology)}")
        stand_in[stage.chips] = stage.index
    return folded_by(machine, stand_in, numbered_ports(machine))


def _fold_stage(stage: Stage, folding: Folding) -> Stage:
    """A stage with the one chip that stands for its chips. Raises NotFoldableError."""
    chips, machine = np.array([stage.index], dtype=np.int32), folded(stage.topology)
    links = np.empty(len(machine.links), dtype=np.int32)
    links[machine.representative_links] = folding.representative_link[stage.links]
    if (links[machine.representative_links] != folding.representative_link[stage.links]).any():
        raise NotFoldableError(f"stage {stage.index}: not every chip sees the same links")
    return replace(stage, chips=chips, links=links, topology=machine)
