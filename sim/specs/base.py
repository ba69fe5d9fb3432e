"""Strict models, how they say what is wrong, and what names look like.

Modules of models evaluate annotations when they are imported: as text each would be compiled at every start.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from sim.errors import guess
from sim.specs import plugins


class Strict(BaseModel):
    """Frozen, no unknown keys, no silent conversion of types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


def wrong(*field: str | int, rule: str, got: object = None, hint: str = "") -> PydanticCustomError:
    """A broken rule between fields, for a model's validator to raise: it names the field, from that model on."""
    return PydanticCustomError("rule", "{rule}", {"rule": rule, "field": field, "got": got, "hint": hint})


def complete(keys: Iterable[str], noun: str = "") -> AfterValidator:
    """Returns a validator of mappings that must have every one of some keys."""

    def check(given: dict[Any, Any]) -> dict[Any, Any]:
        for key in keys:
            if key not in given:
                raise wrong(rule=f"must have an entry for {noun}'{key}'")
        return given

    return AfterValidator(check)


NAME, AXIS, MESH_AXIS = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$", "^[a-z]$", "^[a-z][a-z0-9_]*$"
TEXT_RULES = {
    NAME: "must be letters, digits, '_', '-' and '.', with a letter or digit first",
    AXIS: "an axis is named by one lower-case letter",
    MESH_AXIS: "a mesh axis is named by lower-case letters, digits and '_', with a letter first",
}
"""Patterns in words."""

LONGEST_NAME = 100
Name = Annotated[str, Field(pattern=NAME, max_length=LONGEST_NAME)]
Count = Annotated[int, Field(gt=0, le=10**12)]
Number = Annotated[float, Field(gt=0, le=1e12)]
Multiple = Annotated[float, Field(ge=0, le=1000)]


def open_choice(kind: plugins.Kind, shipped: Sequence[str]) -> tuple[Any, ...]:
    """Returns the annotations of a name that is shipped or registered by a plugin."""

    def check(name: str) -> str:
        known = *shipped, *plugins.registered(kind)
        if name not in known:
            raise wrong(rule=f"must be one of {', '.join(known)}", got=name, hint=guess(name, known))
        return name

    schema = {"anyOf": [{"type": "string", "enum": [*shipped]}, {"type": "string"}]}
    return AfterValidator(check), WithJsonSchema(schema)
