"""Basis of a result: constants of machine and software that were measured, fitted, carried over or assumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from msgspec import Struct
from pydantic import BaseModel

from sim.specs import Basis, Fraction, Scenario, Sourced

_SHARE: type[Any] = Sourced[Fraction]


class Constant(Struct, frozen=True):
    """One number whose file says how it came about."""

    field: str
    """Dotted, as in --set."""
    basis: Basis
    source: str
    value: Any
    """SI units."""
    share: bool
    """True if it is a share, at most 1."""
    carried_from: str
    """The chip, or software and chip, that it was found on; empty where it is this one, or where no file says."""


class RestsOn(Struct, frozen=True):
    """The software of a scenario, and the constants of machine and software that its result depends on."""

    stack: str
    chip: str
    fitted_on: str
    """Measurements that constants were fitted to; empty if none was."""
    constants: tuple[Constant, ...]
    nccl: str | None = None
    """File of NCCL's constants on this machine; None without NCCL."""

    def of(self, *bases: Basis) -> tuple[Constant, ...]:
        """Constants with this basis."""
        return tuple(constant for constant in self.constants if constant.basis in bases)

    @property
    def text(self) -> str:
        """One line: `torch_compile on h200_sxm; carried over from h100_sxm: op_overhead, ...; assumed: launch`."""
        groups: dict[str, list[str]] = {}
        for basis in get_args(Basis):
            for constant in self.of(basis):
                head = {"carried": "carried over", "fitted": "fitted"}.get(basis, basis)
                if basis == "carried" and constant.carried_from:
                    head += f" from {constant.carried_from}"
                if basis == "fitted" and self.fitted_on and constant.field.startswith("stack."):
                    head += f" on {self.fitted_on}"
                groups.setdefault(head, []).append(constant.field.removeprefix("stack."))
        parts = [f"{head}: {', '.join(names)}" for head, names in groups.items()]
        collectives = f"; collectives of NCCL as nccl/{self.nccl}.yaml has them" if self.nccl else ""
        return f"{self.stack} on {self.chip}; {'; '.join(parts) or 'every efficiency 1, every overhead 0'}{collectives}"

    def to_dict(self) -> dict[str, Any]:
        """JSON data."""
        constants = [
            {"field": each.field, "basis": each.basis, "carried_from": each.carried_from, "source": each.source}
            for each in self.constants
        ]
        return {"stack": self.stack, "chip": self.chip, "text": self.text, "constants": constants}


def rests_on(scenario: Scenario) -> RestsOn:
    """The constants whose files say how they came about; what a data sheet says is not among them, nor what only a
    mixture of experts reads, or kernels of dispatch and combine where tokens are gathered."""
    stack, has_experts = scenario.stack, scenario.model.experts is not None
    gathers = stack.named_scheme(scenario.layout.experts) == "all_gather"
    exchange = {scenario.exchange_kernel} if has_experts and not gathers else set()
    read = {name: kernel for name, kernel in stack.exchange.items() if name in exchange}
    parts = {
        "stack": stack.model_copy(update={"exchange": read}),
        "topology": scenario.topology,
        "layout": scenario.layout,
    }
    found = [
        constant
        for name, part in parts.items()
        for constant in _constants(part, name)
        if has_experts or not constant.field.startswith("stack.grouped_")
    ]
    nccl = getattr(scenario.topology, "nccl", None)  # a torus has none
    return RestsOn(stack.name, scenario.topology.chip.name, stack.fitted_on, tuple(found), nccl.name if nccl else None)


def _constants(value: Any, field: str) -> Iterator[Constant]:
    if isinstance(value, Sourced):
        if value.basis is not None:
            origin = value.carried_from or ""
            yield Constant(field, value.basis, value.source or "", value.value, type(value) is _SHARE, origin)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _constants(getattr(value, name), f"{field}.{name}")
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _constants(part, f"{field}.{key}")
