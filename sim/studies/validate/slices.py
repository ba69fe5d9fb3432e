"""Slices of a torus that rows of a suite ran on."""

from __future__ import annotations

from math import prod
from typing import Any

from sim.errors import InputError
from sim.specs import Scenario
from sim.specs.suite import Suite
from sim.studies.validate.csv_rows import Row


def slice_settings(suite: Suite, base: Scenario, row: Row) -> dict[str, Any]:
    """Returns the settings that cut a row's mesh out of the base's machine; none where it is that machine.

    An axis of a smaller slice wraps where the suite says so (`wrap_multiple`), else only where it is a whole axis of
    the base's machine that wraps.
    """
    mesh, where, lines = row.cell("mesh"), row.where, base.topology.lines
    lengths = [int(length) if length.isdigit() else 0 for length in mesh.split("x")]
    if len(lengths) != len(lines) or 0 in lengths:
        raise InputError("column 'mesh' must give the length of each axis, such as 4x4x4", where=where, got=mesh)
    if (chips := row.number("chips")) != prod(lengths):
        raise InputError(f"column 'chips' must be those of the mesh, {prod(lengths)}", where=where, got=chips)
    if lengths == [axis.size for axis in lines.values()]:
        return {}
    multiple = suite.wrap_multiple
    axes = {}
    for length, (name, axis) in zip(lengths, lines.items(), strict=True):
        if multiple is None and length > axis.size:
            rule = f"column 'mesh' must be the mesh of the suite's base, or a part of it: axis {name} has {axis.size}"
            hint = f"name a scenario on a {mesh} machine as the suite's 'base', or give its 'wrap_multiple'"
            raise InputError(rule, where=where, got=mesh, hint=hint)
        wraps = all(each % multiple == 0 for each in lengths) if multiple else axis.wrap and length == axis.size
        axes[name] = {"size": length, "wrap": wraps}
    return {"topology.axes": axes, "topology.name": f"{base.topology.chip.name}_{mesh}"}
