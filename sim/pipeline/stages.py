"""Stages: which chips and layers each has, and its chips as a machine of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import numpy as np

from sim import topology as machines
from sim.errors import InputError
from sim.placement import some_chips, tensor_parallel
from sim.program import Ids
from sim.specs import Scenario, TorusSpec
from sim.topology.folding import NotFoldableError, folded, folded_by, numbered_ports, unlike
from sim.topology.graph import StandsFor, Topology


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of a pipeline."""

    index: int
    first_layer: int
    layers: int
    first: bool
    """Whether it embeds the tokens."""
    last: bool
    """Whether it ends in logits."""
    chips: Ids
    """Its chips, as the scenario's machine numbers them: where that is folded, the one that stands for all."""
    links: Ids
    """The machine's link for each of its own."""
    topology: Topology
    """Its chips and the links between them."""
    all_chips: Ids
    """Its chips, as the whole machine numbers them."""


def layers_of(scenario: Scenario) -> tuple[int, ...]:
    """Layers of each stage: as the scenario says, else equal, what remains in the last stages (EnergonAI)."""
    given = scenario.pipeline.stages if scenario.pipeline else None
    if given:
        return tuple(given)
    stages = scenario.layout.mesh.pipeline
    each, more = divmod(scenario.layers, stages)
    return tuple(each + (stage >= stages - more) for stage in range(stages))


def stages_of(scenario: Scenario, topology: Topology) -> tuple[Stage, ...]:
    """The stages of a scenario on its machine (`sim.placement.machine`), or on that folded (`folded_by_stage`).

    Links that failed there have in the stages.

    Raises:
        InputError: a torus that does not fall into so many equal slabs.
    """
    if topology.stands_for:
        return tuple(_folded(stage, topology.stands_for) for stage in stages_of(scenario, topology.stands_for.whole))
    whole = topology
    layers = layers_of(scenario)
    cut = _slab if isinstance(scenario.topology, TorusSpec) else _group
    result = []
    for index in range(len(layers)):
        chips, links, own = cut(scenario, whole, index, len(layers))
        lost = frozenset(np.flatnonzero(np.isin(links, sorted(whole.failed))).tolist())
        result.append(
            Stage(
                index=index,
                first_layer=sum(layers[:index]),
                layers=layers[index],
                first=index == 0,
                last=index == len(layers) - 1,
                chips=chips,
                links=links,
                topology=own.without(lost),
                all_chips=chips,
            )
        )
    return tuple(result)


def folded_by_stage(scenario: Scenario, whole: Topology) -> Topology:
    """The machine with one chip of each stage, which stands for all of them.

    Raises:
        NotFoldableError: the chips of a stage are not all alike.
    """
    stand_in = np.empty(whole.chips, dtype=np.int32)
    for stage in stages_of(scenario, whole):
        if not stage.topology.vertex_transitive:
            raise NotFoldableError(f"in a stage {unlike(stage.topology)}")
        stand_in[stage.chips] = stage.index
    return folded_by(whole, stand_in, numbered_ports(whole))


def _folded(stage: Stage, stands_for: StandsFor) -> Stage:
    """A stage with the one chip that stands for its chips. Raises NotFoldableError."""
    chips, own = np.array([stage.index], dtype=np.int32), folded(stage.topology)
    links = np.empty(len(own.links), dtype=np.int32)
    links[own.stand_in_links] = stands_for.link[stage.links]
    if (links[own.stand_in_links] != stands_for.link[stage.links]).any():
        raise NotFoldableError(f"stage {stage.index}: not every chip sees the same links")
    return replace(stage, chips=chips, links=links, topology=own)


def _group(scenario: Scenario, whole: Topology, index: int, stages: int) -> tuple[Ids, Ids, Topology]:
    """Consecutive chips of a switch or graph."""
    size = whole.chips // stages
    chips = np.arange(index * size, (index + 1) * size, dtype=np.int32)
    topology = machines.build(some_chips(scenario.topology, chips.tolist()), scenario.stack)
    topology = tensor_parallel(topology, scenario.model.kv_heads)
    if whole.kind == "switch":  # two ports of each chip
        return chips, np.stack([2 * chips, 2 * chips + 1], axis=1).ravel().astype(np.int32), topology
    number = {link.name: link.index for link in whole.links}
    return chips, np.array([number[link.name] for link in topology.links], dtype=np.int32), topology


def _slab(scenario: Scenario, whole: Topology, index: int, stages: int) -> tuple[Ids, Ids, Topology]:
    """A slab of a torus, which does not wrap where it was cut."""
    spec = scenario.topology
    if not isinstance(spec, TorusSpec):
        raise TypeError("a slab is of a torus")
    if stages == 1:
        every = np.arange(whole.chips, dtype=np.int32)
        return every, np.arange(len(whole.links), dtype=np.int32), whole
    name = max(spec.axes, key=lambda axis: spec.axes[axis].size)
    axis = spec.axes[name]
    twisted = any(other.twist for other in spec.axes.values())
    if axis.size % stages or twisted:
        rule = f"stages must divide the longest axis, {name} = {axis.size}"
        rule = "a twisted torus cannot be cut into stages" if twisted else rule
        raise InputError(rule, where="layout.mesh.pipeline", got=stages)
    size = axis.size // stages
    axes = {**spec.axes, name: axis.model_copy(update={"size": size, "wrap": False})}
    topology = machines.build(spec.model_copy(update={"axes": axes}), scenario.stack)
    along = list(spec.axes).index(name)
    chips = []
    for chip in range(prod(each.size for each in axes.values())):
        position = list(topology.coordinates(chip))
        position[along] += index * size
        chips.append(whole.chip_at(tuple(position)))
    number = {(link.src, link.axis, link.direction): link.index for link in whole.links}
    links = [number[chips[link.src], link.axis, link.direction] for link in topology.links]
    return np.array(chips, dtype=np.int32), np.array(links, dtype=np.int32), topology
