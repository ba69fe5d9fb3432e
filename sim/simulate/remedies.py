"""Changes of a scenario that would make it fit in memory, each tried: the changed scenario is lowered again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import ceil, floor
from typing import Any, TypeVar

from msgspec import Struct
from msgspec.structs import replace
from pydantic import ValidationError

from sim.errors import InputError
from sim.report.memory import Memory
from sim.simulate.forward_pass import lower_pass
from sim.specs import DTYPE_BYTES, MemoryPoolSpec, Scenario, Strict, load
from sim.units import format_bytes

_KEPT = 4
"""Copies of a layer that are lowered: memory counts all of them."""
_MOST_TRIES = 8
"""Batches that are tried; each is the largest that what was measured before leaves room for."""
_OFFLOADED = (8, 4, 3, 2)
"""The last of so many layers in the host's memory; the largest that fits."""

_HOST_LINK = "pcie_gen4_x16"
"""Way to the host's memory that is named; sizes do not depend on it."""

_Spec = TypeVar("_Spec", bound=Strict)
Change = Mapping[str, Any]
"""Values by dotted field."""


class _Tried(Struct, frozen=True):
    """A changed scenario, and the memory of its fullest chip."""

    change: Change
    memory: Memory

    @property
    def text(self) -> str:
        return " with ".join(f"{field}={value}" for field, value in self.change.items())


def memory_of(scenario: Scenario) -> Memory:
    """Returns the memory of the fullest chip, of the phase that needs more.

    Raises:
        InputError: as in lowering the scenario.
        LayoutError: the mesh does not divide a dimension.
    """
    found = []
    for phase in scenario.phases:
        topology, lowered, _ = lower_pass(phase, None if phase.pipeline else _KEPT)
        sizes = lowered.weights_bytes, lowered.kv_cache_bytes, topology.chip.hbm_capacity
        found.append(Memory(*sizes, lowered.gather_buffer_bytes))
    return max(found, key=lambda memory: memory.used_bytes)


def add_remedies(memory: Memory, scenario: Scenario, chips: int) -> Memory:
    """Returns the memory of a run with changes that make it fit, or that say by how much they help.

    Args:
        memory: of the run's fullest chip.
        chips: over which the model is split.
    """
    return memory if memory.fits else replace(memory, remedies=tuple(_find_remedies(memory, scenario, chips)))


def _find_remedies(memory: Memory, scenario: Scenario, chips: int) -> Iterator[str]:
    batch = _find_batch(memory, scenario)
    if batch is not None:
        yield batch.text
    tried = [each for each in (_try(scenario, change) for change in _smaller(scenario)) if each]
    useful = [each for each in tried if each.memory.used_bytes < memory.used_bytes]
    enough = [each for each in useful if each.memory.fits]
    if not enough and len(useful) > 1:
        together = _try(scenario, {field: value for each in useful for field, value in each.change.items()})
        enough = [together] if together and together.memory.fits else []
    yield from (each.text for each in enough)
    if not enough:
        excess = format_bytes(memory.excess_bytes)
        for each in useful:
            yield f"{each.text} (saves {format_bytes(memory.used_bytes - each.memory.used_bytes)} of {excess})"
    if batch is None and scenario.memory_pool is None and not scenario.part.lines:
        pools = (_try(scenario, {"memory_pool": pool}) for pool in _pools())
        yield from [_pool_text(each) for each in pools if each and each.memory.fits][:1]
    shares = ceil(chips * memory.used_bytes / memory.capacity_bytes)
    yield f"about {shares:,} chips, if they split all that a chip holds"


def _smaller(scenario: Scenario) -> Iterator[Change]:
    """Yields changes of number formats and of the split of the cache."""
    for name in ("kv_cache", "weights"):
        if DTYPE_BYTES[getattr(scenario.workload, name)] == 2:
            yield {f"workload.{name}": "int8"}
    if scenario.layout.attention == "heads":
        yield {"layout.attention": "batch"}


def _pools() -> Iterator[MemoryPoolSpec]:
    link = load.link(_HOST_LINK)
    for every in _OFFLOADED:
        yield MemoryPoolSpec(offload_every=every, to="host", link=link)


def _pool_text(tried: _Tried) -> str:
    pool = tried.change["memory_pool"]
    return f"memory_pool={{offload_every: {pool.offload_every}, to: {pool.to}, link: {_HOST_LINK}}}"


def _find_batch(memory: Memory, scenario: Scenario) -> _Tried | None:
    """Returns a smaller batch that fits: what memory has room for, or less where the layout has to divide it."""
    batch, measured = scenario.workload.batch, memory
    for _ in range(_MOST_TRIES):
        left = memory.capacity_bytes - (measured.used_bytes - measured.kv_cache_bytes)
        room = floor(batch * left / measured.kv_cache_bytes) if measured.kv_cache_bytes else 0
        tries = (_try(scenario, {"workload.batch": each}) for each in _rounded(min(room, batch - 1)))
        tried = next((each for each in tries if each), None)
        if tried is None or tried.memory.fits:
            return tried
        batch, measured = int(tried.change["workload.batch"]), tried.memory
    return None


def _rounded(number: int) -> Iterator[int]:
    """Yields a number, then the next smaller multiples of 2, 4, 8 and so on; nothing below 1."""
    seen, step = 0, 1
    while step <= number:
        if (multiple := number // step * step) != seen:
            seen = multiple
            yield multiple
        step *= 2


def _try(scenario: Scenario, change: Change) -> _Tried | None:
    """Returns a changed scenario with its memory; None if the change is refused."""
    try:
        changed = scenario
        for field, value in change.items():
            changed = _set(changed, field.split("."), value)
        return _Tried(change, memory_of(changed))
    except (InputError, ValidationError):
        return None


def _set(spec: _Spec, path: Sequence[str], value: Any) -> _Spec:
    """Returns a spec with one field replaced, checked like any other. Raises ValidationError."""
    name, *inner = path
    value = _set(getattr(spec, name), inner, value) if inner else value
    return type(spec).model_validate({**dict(spec), name: value})
