"""Kernels hold at most the multiprocessors that a chip has, on every shipped chip."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from support.commands import call

from sim.errors import InputError
from sim.specs import NcclSpec, load
from sim.specs.base import Strict
from sim.specs.experts import ExpertsLayout
from sim.specs.stack import StackSpec

MACHINES = {load.topology_spec(name).chip.name: name for name in load.shipped("topology")}
"""A machine of each chip."""
COUNTED = {chip: name for chip, name in MACHINES.items() if load.topology_spec(name).chip.multiprocessors}

TIMES = "{value: {multiprocessors: 1}}"
STACK = "stack={name: own, exchange: {normal: {dispatch: %s, combine: %s}}, multimem: {value: {blocks: 1}}}"
FIELDS = {
    "layout.experts.multiprocessors": "",
    "stack.multimem.value.blocks": STACK % (TIMES, TIMES),
    "stack.exchange.normal.dispatch.value.multiprocessors": STACK % (TIMES, TIMES),
    "stack.exchange.normal.combine.value.multiprocessors": STACK % (TIMES, TIMES),
}
NCCL = "topology.nccl.nvls.channels"


def scenario(machine: str, *settings: str) -> None:
    dtype = next(each for each in ("bf16", "fp16") if each in load.topology_spec(machine).chip.peak)
    base = ("sweep=null", "figure=null", f"topology={machine}", "stack=ideal", "layout.mesh={tensor: 2}")
    base = (*base, f"workload.activations={dtype}")
    load.scenario("mixtral_8x7b_tp_or_ep", [*base, *filter(None, settings)])


def counts(spec: type[Strict], prefix: str = "") -> Iterator[str]:
    """Yields the fields that count multiprocessors: their own name, thread blocks, or channels of one each."""
    for name, field in spec.model_fields.items():
        if name in ("multiprocessors", "blocks", "channels"):
            yield f"{prefix}{name}"
        for part in parts(field.annotation):
            yield from counts(part, f"{prefix}{name}.")


def parts(annotation: Any) -> Iterator[type[Strict]]:
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for each in get_args(annotation):
        yield from parts(each)


def test_every_count_of_multiprocessors_is_checked():
    """A new field of this kind has to be added here, and to `sim.specs.held`."""
    roots = {"stack.": StackSpec, "layout.experts.": ExpertsLayout, "topology.nccl.": NcclSpec}
    found = {path for prefix, spec in roots.items() for path in counts(spec, prefix)}
    assert found == {path.replace("exchange.normal.", "exchange.") for path in (*FIELDS, NCCL)}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("chip", COUNTED)
def test_a_chip_has_all_multiprocessors_that_kernels_hold(chip: str, field: str):
    machine = COUNTED[chip]
    most = load.topology_spec(machine).chip.multiprocessors.value
    scenario(machine, FIELDS[field], f"{field}={most}")
    with pytest.raises(InputError) as refused:
        scenario(machine, FIELDS[field], f"{field}={most + 1}")
    rule = f"must be at most the {most} multiprocessors of chip '{chip}', got {most + 1}; fewer, or a chip with more"
    assert str(refused.value) == f"--set {field}: {rule}"


@pytest.mark.parametrize("chip", COUNTED)
def test_channels_of_nccl_hold_a_multiprocessor_each(chip: str):
    spec = load.topology_spec(COUNTED[chip])
    if getattr(spec, "nccl", None) is None or spec.nccl.nvls is None:
        return
    most = spec.chip.multiprocessors.value
    scenario(COUNTED[chip], f"{NCCL}={most}")
    with pytest.raises(InputError, match=f"{NCCL}: must be at most the {most} multiprocessors"):
        scenario(COUNTED[chip], f"{NCCL}={most + 1}")


@pytest.mark.parametrize("chip", [chip for chip in MACHINES if chip not in COUNTED])
def test_a_chip_without_multiprocessors_has_no_such_limit(chip: str):
    for stack in FIELDS.values():
        load.machine(MACHINES[chip], [each for each in [stack] if each])


@pytest.mark.parametrize(
    "setting", ["layout.experts.multiprocessors=133", "stack.exchange.normal.combine.value.multiprocessors=133"]
)
def test_an_exchange_by_itself_says_the_same(setting: str):
    arguments = ("collective", "dispatch", "--topology", "hgx_h800", "--tokens", "8", "--set", "stack=deep_ep")
    code, said = call(*arguments, "--set", setting)
    assert code == 2
    assert "must be at most the 132 multiprocessors of chip 'h800_sxm', got 133" in said
