"""Loads files into validated specs: expands references, applies `--set`, and reports errors by file and field."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import TypeAdapter, ValidationError, model_validator

from sim.errors import InputError
from sim.specs import ChipSpec, LinkSpec, Model, PerturbSpec, Scenario, StackSpec, Strict, TopologySpec
from sim.specs.base import wrong
from sim.specs.file_kinds import file_model
from sim.specs.held import find_excess, held_by_stack
from sim.specs.load import plugin_files
from sim.specs.load.boxes import inherit
from sim.specs.load.places import Path_, place_of
from sim.specs.load.references import REFERENCES, data_root, expand, find, shipped
from sim.specs.load.settings import apply
from sim.specs.load.stacks import on_chip
from sim.specs.load.yaml_text import shown
from sim.specs.mesh import MeshSpec, check_mesh
from sim.terminal import CONTROL

if TYPE_CHECKING:
    from sim.specs.exchange import ExchangeInputs
    from sim.specs.suite import AnySuite

__all__ = [
    "REFERENCES",
    "data_root",
    "exchange",
    "is_of",
    "link",
    "machine",
    "mesh",
    "model",
    "path",
    "perturb",
    "place",
    "scenario",
    "shipped",
    "source",
    "suite",
    "topology_spec",
]

_OTHER_EXPERIMENT = ("topology", "stack", "model", "workload")
"""Settings that make it another experiment than the published one; layout and collectives are how that was run."""

_MACHINE_AT: dict[str, Path_] = {"topology": (), "scenario": ("topology",)}
"""Field that holds the machine, by kind of file."""

_DIMENSIONS = ("layers", "d_model", "d_ff", "heads", "kv_heads", "d_head", "vocabulary", "ffn", "tied")
"""Settings of a model that change its number of parameters."""


def scenario(name: str, settings: Sequence[str] = ()) -> Scenario:
    """The scenario of a shipped name or a path, with `key=value` settings applied.

    Raises:
        InputError: anything wrong in the file, in a file it refers to, or in a setting.
    """
    result: Scenario = _load("scenario", name, settings)
    return result


def place(kind: str, name: str) -> str:
    """The file of a shipped name or a path, for messages. Raises InputError."""
    return shown(find(kind, name, "", Path()))


def topology_spec(name: str, settings: Sequence[str] = ()) -> TopologySpec:
    """The machine of a shipped name or a path. Raises InputError."""
    result: TopologySpec = _load("topology", name, settings)
    return result


def machine(name: str, settings: Sequence[str] = ()) -> tuple[TopologySpec, StackSpec]:
    """A machine, and the software that runs on it: its own, or what `stack=...` says. Raises InputError."""
    of_stack = [each for each in settings if each.partition("=")[0].strip().partition(".")[0] == "stack"]
    spec = topology_spec(name, [each for each in settings if each not in of_stack])
    raw: dict[str, Any] = {}
    origins: dict[Path_, str] = {(): place("topology", name)}
    named, fields = _by_stack(of_stack)
    for setting in named:
        apply("scenario", raw, setting, origins)
    own = {"chip": {"name": spec.chip.name}, "default_stack": spec.default_stack}
    _settle_stack(raw, own, fields, origins)
    try:
        return spec, _Software.model_validate(raw | {"chip": spec.chip}).stack
    except ValidationError as error:
        raise _problem("scenario", error, raw, origins, settings) from None


def model(name: str) -> Model:
    """The transformer of a shipped name or a path. Raises InputError."""
    result: Model = _load("model", name, ())
    return result


def link(name: str) -> LinkSpec:
    """The link of a shipped name or a path. Raises InputError."""
    result: LinkSpec = _load("link", name, ())
    return result


def suite(name: str) -> AnySuite:
    """The validation suite of a shipped name or a path. Raises InputError."""
    if name.endswith(".csv"):
        hint = f"`sim validate SUITE --rows {name}`, or a suite file of your own with `rows: {name}`"
        raise InputError("must be a suite file, not its rows", where=name, hint=hint)
    result: AnySuite = _load("suite", name, ())
    return result


def exchange(settings: Sequence[str]) -> tuple[ExchangeInputs, list[str]]:
    """Returns an exchange of tokens with their experts as `key=value` settings describe it, and the other settings.

    Raises:
        InputError: anything wrong in these settings, or no model.
    """
    from sim.specs.exchange import ExchangeInputs

    raw: dict[str, Any] = {}
    origins: dict[Path_, str] = {}
    others = []
    for setting in settings:
        if setting.partition("=")[0].strip().partition(".")[0] in ExchangeInputs.model_fields:
            apply("scenario", raw, setting, origins)
        else:
            others.append(setting)
    _forget_parameters(raw, origins)
    try:
        return ExchangeInputs.model_validate(raw), others
    except ValidationError as error:
        raise _problem("scenario", error, raw, origins, settings) from None


def is_of(field: str, setting: str) -> bool:
    """Returns True if a `key=value` sets `field`, such as `perturb`, or a field inside it."""
    return setting.partition("=")[0].strip().partition(".")[0] == field


class _Software(Strict):
    chip: ChipSpec
    stack: StackSpec

    @model_validator(mode="after")
    def _kernels_fit_on_the_chip(self) -> Self:
        excess = find_excess(self.chip, ((("stack", *field), count) for field, count in held_by_stack(self.stack)))
        if excess is not None:
            raise wrong(*excess.field, rule=excess.rule, got=excess.got, hint=excess.hint)
        return self


class _Perturbed(Strict):
    perturb: PerturbSpec | None = None


class _Meshed(Strict):
    topology: TopologySpec
    mesh: MeshSpec | None = None

    @model_validator(mode="after")
    def _mesh_fits(self) -> Self:
        if self.mesh is not None:
            check_mesh(self.mesh, self.topology)
        return self


def perturb(settings: Sequence[str]) -> PerturbSpec | None:
    """Returns the perturbations set by `perturb=...` and `perturb.field=...`; None if none. Raises InputError."""
    raw: dict[str, Any] = {}
    origins: dict[Path_, str] = {}
    for setting in settings:
        apply("scenario", raw, setting, origins)
    try:
        return _Perturbed.model_validate(raw).perturb
    except ValidationError as error:
        raise _problem("scenario", error, raw, origins, settings) from None


def mesh(settings: Sequence[str], machine: TopologySpec) -> MeshSpec | None:
    """Returns the mesh over a machine that `mesh=...` and `mesh.axis=...` set; None if none. Raises InputError."""
    raw: dict[str, Any] = {}
    origins: dict[Path_, str] = {}
    for setting in settings:
        apply("scenario", raw, setting, origins)
    try:
        return _Meshed.model_validate({**raw, "topology": machine}).mesh
    except ValidationError as error:
        raise _problem("scenario", error, raw, origins, settings) from None


def source(name: str) -> str | None:
    """The scenario file of a shipped name or a path, as results name it; None for what is no regular file.

    A shipped file is named as seen from the data root, any other by its absolute path. Raises InputError.
    """
    found, root = path("scenario", name).resolve(), data_root().resolve()
    if not found.is_file():
        return None
    return str(found.relative_to(root) if found.is_relative_to(root) else found)


def path(kind: str, name: str) -> Path:
    """The file of a shipped name or a path. Raises InputError."""
    return find(kind, name, "", Path())


def _load(kind: str, name: str, settings: Sequence[str]) -> Any:
    origins: dict[Path_, str] = {}
    raw = expand(kind, name, (), origins, where="", beside=Path())
    machine_and_layout, of_stack = _by_stack(settings) if kind == "scenario" else (list(settings), [])
    for setting in machine_and_layout:
        apply(kind, raw, setting, origins)
    if kind == "scenario" and any(setting.startswith(_OTHER_EXPERIMENT) for setting in settings):
        raw.pop("reference", None)  # what was published was measured in the file's experiment
    if "sweep" in raw and raw["sweep"] is None and not any(setting.startswith("figure") for setting in settings):
        raw.pop("figure", None)  # of the file's sweep, which a setting takes away
    _forget_parameters(raw, origins)
    if kind in ("scenario", "suite"):
        plugin_files.load_all(raw, origins.get((), ""), origins)
    if kind in _MACHINE_AT:
        inherit(raw, _MACHINE_AT[kind], origins)
    if kind == "scenario":
        _settle_stack(raw, raw.get("topology"), of_stack, origins)
    try:
        result = _adapter(kind).validate_python(raw)
    except ValidationError as error:
        raise _problem(kind, error, raw, origins, settings) from None
    _refuse_control_characters(raw, origins)
    return result


def _by_stack(settings: Sequence[str]) -> tuple[list[str], list[str]]:
    """(settings of all else and of which stack it is, settings of fields of that stack)."""
    rest, fields = list[str](), list[str]()
    for setting in settings:
        key = setting.partition("=")[0].strip()
        (fields if key.startswith("stack.") else rest).append(setting)
        if key == "stack":
            fields.clear()
    return rest, fields


def _settle_stack(raw: dict[str, Any], machine: Any, settings: Sequence[str], origins: dict[Path_, str]) -> None:
    """Puts the stack of the machine's chip in place, by default the machine's own, with `stack.field=value` set."""
    chip = machine.get("chip") if isinstance(machine, dict) else None
    if "stack" not in raw:
        default = machine.get("default_stack", "ideal") if isinstance(machine, dict) else "ideal"
        where = f"{origins.get(('topology',), origins.get((), ''))}: default_stack"
        raw["stack"] = expand("stack", default, ("stack",), origins, where, Path())
    if isinstance(raw["stack"], dict):
        name = chip.get("name") if isinstance(chip, dict) else None
        raw["stack"] = on_chip(raw["stack"], name, origins, ("stack",))
    for setting in settings:
        apply("scenario", raw, setting, origins)


def _forget_parameters(raw: dict[str, Any], origins: Mapping[Path_, str]) -> None:
    """A model whose dimensions were set no longer has the parameters of its file."""
    changed = any(("model", name) in origins for name in _DIMENSIONS)
    if changed and ("model", "nominal_parameters") not in origins:
        raw["model"].pop("nominal_parameters", None)


def _refuse_control_characters(raw: Any, origins: Mapping[Path_, str]) -> None:
    """Raises InputError for text, of a key or a value, that a terminal would obey instead of showing it."""
    todo: list[tuple[Path_, Any]] = [((), raw)]
    while todo:
        path, value = todo.pop()
        if isinstance(value, dict):
            todo += [entry for key, own in value.items() for entry in ((path, key), ((*path, key), own))]
        elif isinstance(value, list):
            todo += [((*path, i), own) for i, own in enumerate(value)]
        elif isinstance(value, str) and CONTROL.search(value):
            raise InputError("text must have no control characters", where=place_of(path, origins), got=value)


def _problem(
    kind: str, error: ValidationError, raw: dict[str, Any], origins: Mapping[Path_, str], settings: Sequence[str]
) -> InputError:
    from sim.specs.load.problems import translate

    return translate(kind, error, raw, origins, settings)


@functools.cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    model = file_model(kind)
    if isinstance(model, type) and issubclass(model, Strict):
        model.model_rebuild()  # the adapter then takes the model's own schema, which writing the model needs as well
    return TypeAdapter(model)
