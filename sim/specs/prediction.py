"""Predictions of a user's own, beside the simulation and the closed forms."""

from typing import Self

from pydantic import model_validator

from sim.errors import suggest
from sim.specs import plugins
from sim.specs.base import Strict, wrong


class Prediction(Strict):
    """A prediction of one's own that stands beside the simulation: a column of the rows, or a function."""

    column: str | None = None
    """Column of the CSV that has it, in the unit of the row's metric."""
    closed_form: str | None = None
    """A closed form of a plugin, or `module:function` of a file beside this one or an installed module. It returns
    seconds, and is called with the scenario; for a collective with its name, the number of chips and the bytes."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.column is None) == (self.closed_form is None):
            raise wrong(rule="must name a column of the rows or a closed_form, and only one of them")
        if self.closed_form is not None and not all(self.closed_form.partition(":")):
            known = plugins.registered("closed_form")
            if self.closed_form not in known:
                rule = "must be module:function, or a closed form of a plugin"
                raise wrong("closed_form", rule=rule, got=self.closed_form, hint=suggest("", known))
        return self
