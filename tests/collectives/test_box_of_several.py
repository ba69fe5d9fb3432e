"""A group inside one box takes as long whether the box stands alone or beside others."""

from __future__ import annotations

import pytest

from sim import topology as machines
from sim.collectives import COLLECTIVES, algorithm_of, schedule
from sim.collectives.emit import alone_s
from sim.collectives.groups import longer_axes
from sim.specs import load
from sim.topology.group import groups_of

PAIRS = {
    "dgx_a100": ("dgx_a100_x2", "dgx_a100_x4"),
    "dgx_h100": ("dgx_h100_x2", "dgx_h100_x4", "dgx_h100_x4_leaf_spine"),
    "hgx_h200": ("hgx_h200_x2", "hgx_h200_x2_800g", "hgx_h200_x4"),
    "hgx_h800": ("hgx_h800_x2", "hgx_h800_x4"),
    "hgx_b200": ("hgx_b200_x2", "hgx_b200_x4"),
}
CASES = [(alone, beside) for alone, others in PAIRS.items() for beside in others]
SIZES = (2.0**13, 2.0**20, 2.0**26, 2.0**30)


def times(name: str, first: int, size: int) -> dict[tuple[str, float], tuple[str, float]]:
    """Algorithm and seconds of every collective among `size` chips from `first` on, by collective and bytes."""
    (group,) = groups_of(machines.build(*load.machine(name)), (tuple(range(first, first + size)),))
    machine, found = group.machine, {}
    for collective in COLLECTIVES:
        for size_bytes in SIZES:
            chosen = algorithm_of(machine, collective, None, size_bytes)
            plan = schedule(machine, collective, longer_axes(machine), chosen, size_bytes)
            found[collective, size_bytes] = chosen, alone_s(machine, plan, size_bytes)
    return found


@pytest.mark.every_case
@pytest.mark.parametrize("size", [2, 4, 8])
@pytest.mark.parametrize(("alone", "beside"), CASES)
def test_a_group_inside_a_box(alone: str, beside: str, size: int):
    expected = times(alone, 0, size)
    for first in (0, 8):
        found = times(beside, first, size)
        assert {key: name for key, (name, _) in found.items()} == {key: name for key, (name, _) in expected.items()}
        assert {key: time for key, (_, time) in found.items()} == pytest.approx(
            {key: time for key, (_, time) in expected.items()}, rel=1e-9
        )
