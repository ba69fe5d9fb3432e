"""Quantities: text with a unit in a file, SI floats here, and where a number comes from."""

from collections.abc import Callable
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, WithJsonSchema, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from pydantic_core.core_schema import (
    float_schema,
    no_info_before_validator_function,
    plain_serializer_function_ser_schema,
    str_schema,
)

from sim import units
from sim.errors import InputError
from sim.specs.base import Strict

LARGEST = 1e21
"""SI units. No machine comes near, and sums and products stay finite."""


class _Written:
    """Annotation of a float that a file has in another form: a schema as a validator and a serializer would make it.

    Of these, pydantic would look up the arguments in each of the hundreds of fields.
    """

    def __init__(
        self, read: Callable[[object], float], schema: JsonSchemaValue, write: Callable[[float], str] | None = None
    ) -> None:
        self._read, self._schema = read, schema
        self._written = write and plain_serializer_function_ser_schema(write, return_schema=str_schema())

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_before_validator_function(self._read, float_schema(), serialization=self._written)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self._schema.copy()


def _quantity(unit: str, minimum: float, exclusive: bool) -> _Written:
    def read(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"must be a number with a unit such as '{units.EXAMPLES[unit]}'")
        number = units.parse(value, unit)
        if number < minimum or (exclusive and number == minimum):
            raise ValueError(f"must be {'greater than' if exclusive else 'at least'} {minimum:g}")
        if number > LARGEST:
            raise ValueError(f"must be at most {LARGEST:g} {unit}")
        return number

    schema = {
        "type": "string",
        "pattern": units.PATTERN,
        "examples": [units.EXAMPLES[unit]],
        "description": f"number with a unit, such as {units.EXAMPLES[unit]}",
    }
    return _Written(read, schema, lambda value: units.text(value, unit))


def fraction(value: object) -> float:
    """A number above 0 and at most 1, or a percentage; InputError if it is neither."""
    rule, hint, number = "must be a fraction above 0 and at most 1, such as 0.85 or '85 %'", "", 0.0
    if isinstance(value, str):
        try:
            number = units.parse(value, "")
        except InputError as error:
            hint = error.hint
    elif isinstance(value, int | float) and not isinstance(value, bool):
        number = value
    if not 0 < number <= 1:
        raise InputError(rule, hint=hint)
    return float(number)


Bandwidth = Annotated[float, _quantity("B/s", 0, True)]
Size = Annotated[float, _quantity("B", 0, True)]
Duration = Annotated[float, _quantity("s", 0, False)]
Rate = Annotated[float, _quantity("FLOP/s", 0, True)]

_FRACTION = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        {"type": "string", "pattern": units.PATTERN, "examples": [units.EXAMPLES[""]]},
    ]
}
FRACTION_SCHEMA = WithJsonSchema(_FRACTION)
Fraction = Annotated[float, _Written(fraction, _FRACTION)]

T = TypeVar("T")


Basis = Literal["measured", "fitted", "carried", "assumed"]
"""Read off a measurement of it; chosen so that simulations meet measurements; taken from another chip or software that
was measured or fitted; neither."""


class Sourced(Strict, Generic[T]):
    """A hardware number and where it comes from. In a file also the bare number, without a source."""

    value: T
    source: str | None = None
    basis: Basis | None = None
    """Basis on which the source states it; None if unknown, and for a number that was set."""
    carried_from: str | None = None
    """`CHIP` or `STACK/CHIP` of a stack that it was taken from, as the references to it are followed."""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: object) -> object:
        return data if isinstance(data, dict | Sourced) else {"value": data}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler.resolve_ref_schema(handler(core))
        return {"anyOf": [schema["properties"]["value"], schema]}
