"""All choices of a search: every machine, batch, mesh, layout and attention sharding, and what is asked for beside.

A candidate is a point of a sweep over a shipped scenario, so it is measured, and spread over processes, like one.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

from msgspec import NODEFAULT, Struct
from msgspec.structs import astuple, fields

from sim.engine import compiled
from sim.errors import InputError, suggest
from sim.specs import Model, load, plugins
from sim.specs.layout import RESIDUALS, Overlap
from sim.specs.uses import PRESETS, Axes, Uses
from sim.studies.search.machines import Machine, parse_range
from sim.studies.sweep.points import NO_SWEEP, Point
from sim.topology.factorisations import Factorisation

BASE = "palm540b_decode_ws2d"
"""The shipped scenario whose fields the candidates override."""

Phase = Literal["decode", "prefill"]

OWN = "own"
"""The residual scheme of the model, and the overlap of the stack, which is the one that was validated."""

_USES = ("d_model", "heads", "d_ff", "gather", "batch", "stream", "tokens")
"""How gathered weights are stored moves no other bytes."""


class Work(Struct, frozen=True):
    """Work that is searched for."""

    model: str
    """A shipped name or a path."""
    phase: Phase
    batches: Sequence[int]
    tokens: int = 2048
    """Tokens of the prompt of a prefill, or of the context of a decode step."""
    generate: int = 64
    """Decode steps."""
    weights: str = "bf16"
    """Their number format."""
    layouts: Sequence[str] = tuple(PRESETS)
    residuals: Sequence[str] = (OWN,)
    overlaps: Sequence[str] = (OWN,)

    @property
    def changed_fields(self) -> list[str]:
        """Fields that have not their defaults, `weights=int8`."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return [
            f"{name}={value if isinstance(value, str | int) else '+'.join(value)}"
            for name, (value, default) in values.items()
            if default not in (NODEFAULT, value)
        ]


def list_candidates(work: Work, machines: Sequence[Machine], settings: Sequence[str] = ()) -> list[Point]:
    """Returns all combinations; illegal ones say so when they are run.

    Args:
        settings: `key=value` of every candidate.

    Raises:
        InputError: no such model.
    """
    model = load.model(work.model)
    length = {"context": work.tokens, "generate": work.generate} if work.phase == "decode" else {"prompt": work.tokens}
    points = []
    for machine in machines:
        fast = ("engine.kernel=compiled",) if machine.across_boxes and not compiled.why_unavailable() else ()
        for batch in work.batches:
            workload = {"phase": work.phase, "batch": batch, "weights": work.weights, **length}
            fields = {"topology": machine.topology, "model": work.model, "workload": workload}
            texts = tuple(f"{key}={json.dumps(value)}" for key, value in fields.items())
            place = {"topology": machine.topology, "chips": str(machine.chips)}
            for mesh, ffn, attention in _partitions(machine, model, work.layouts):
                for beside, layout in _beside(work, model):
                    named = {"mesh": mesh.label, "batch": str(batch), "ffn": ffn, "attention": attention}
                    placed = _placed(machine, mesh, ffn, {"attention": attention, **layout})
                    points.append(Point(place | named | beside, (*NO_SWEEP, *fast, *texts, *placed, *settings)))
    return points


def _partitions(machine: Machine, model: Model, layouts: Sequence[str]) -> Iterator[tuple[Factorisation, str, str]]:
    """Yields (mesh, preset, attention), the first of those with the same uses over the same groups of chips.

    Along one axis those come first that do not tell axes apart; there are no others where its chips hold copies of
    key-value heads, which makes two axes of it.
    """
    known: set[Hashable] = set()
    for mesh in machine.meshes:
        axes = tuple(mesh.axes)
        names = sorted(layouts, key=_tells_axes_apart) if len(axes) == 1 else list(layouts)
        if mesh.for_key_values and model.kv_heads % machine.chips:
            names = [name for name in names if not _tells_axes_apart(name)]
        for name in names:
            at = PRESETS[name](axes)
            uses = tuple(_groups(mesh, getattr(at, use)) for use in _USES)
            if at.d_model and not at.summed:
                continue  # d_model is split beside heads and d_ff, not in their place
            for attention in ("heads", "batch") if _groups(mesh, at.d_model + at.heads) else ("heads",):
                if (uses, attention) not in known:
                    known.add((uses, attention))
                    yield mesh, name, attention


def _tells_axes_apart(preset: str) -> bool:
    """Also in how it stores weights."""
    return any(len(axes) in (1, 2) for axes in astuple(PRESETS[preset](("a", "b", "c"))))


def _groups(mesh: Factorisation, axes: Axes) -> Hashable:
    """Returns a key of the groups of chips along axes, which differs for other groups of the machine."""
    rest = [part for axis, parts in mesh.axes.items() if axis not in axes for part in parts]
    parts = sorted(part for axis in axes for part in mesh.axes[axis])
    return "all" if parts and not rest else tuple(parts)


def _placed(machine: Machine, mesh: Factorisation, ffn: str, layout: dict[str, Any]) -> Iterator[str]:
    if mesh.mesh:
        yield f"mesh={json.dumps(mesh.mesh)}"
    elif not machine.whole:
        layout["mesh"] = {"tensor": machine.chips}
    if mesh.merged:
        layout["uses"] = _uses(PRESETS[ffn](tuple(mesh.axes)), mesh.merged)
    else:
        layout["ffn"] = ffn
    yield f"layout={json.dumps(layout)}"


def _uses(at: Uses, merged: Mapping[str, Axes]) -> dict[str, Any]:
    """Returns `layout.uses` of merged axes."""

    def names_of(axes: Axes) -> list[str]:
        return [name for axis in axes for name in merged[axis]]

    fields: dict[str, Any] = {
        use: names_of(getattr(at, use)) for use in ("d_model", "heads", "d_ff", "gather", "batch")
    }
    fields["residual"] = dict.fromkeys(names_of(at.stream), "d_model") | dict.fromkeys(names_of(at.tokens), "tokens")
    if at.gather:
        stored = {"d_model": at.stored_d_model, "heads": at.stored_heads, "d_ff": at.stored_d_ff}
        fields["stored"] = {use: names_of(axes) for use, axes in stored.items()}
    return fields


def _beside(work: Work, model: Model) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Returns (named choices, fields of the layout) of every residual scheme and overlap."""
    for residual in work.residuals:
        for overlap in work.overlaps:
            named = {"residual": residual} if tuple(work.residuals) != (OWN,) else {}
            named |= {"overlap": overlap} if tuple(work.overlaps) != (OWN,) else {}
            fields = {name: value for name, value in named.items() if value != OWN}
            if fields.get("residual", "parallel") != "parallel" and model.block == "parallel":
                fields["block"] = "serial"
            yield named, fields


def parse_names(text: str, option: str) -> tuple[str, ...]:
    """Parses `ladder,own` of an option `layouts`, `residual` or `overlap`. Raises InputError."""
    known = {
        "layouts": (*PRESETS,),
        "residual": (OWN, *RESIDUALS, *plugins.registered("residual_scheme")),
        "overlap": (OWN, *get_args(Overlap)),
    }[option]
    names = tuple(dict.fromkeys(each.strip() for each in text.split(",")))
    for name in names:
        if name not in known:
            hint = suggest(name, known) or f"there are {', '.join(known)}"
            raise InputError("no such name", where=f"--{option}", got=name, hint=hint)
    return names


def parse_batches(text: str) -> list[int]:
    """Parses `64`, or `1..1024`: all powers of two times the first up to the last. Raises InputError."""
    if (ends := parse_range(text)) is None:
        raise InputError("must be a batch or a range of them", where="--batch", got=text, hint="such as 1..1024")
    first, last = ends
    return [first << power for power in range((last // first).bit_length())]
