"""One collective in several groups of chips at once: schedules of the groups' machines on the links of the whole.

Every group is planned on the machine that its chips are (`sim.topology.group`), with the algorithm and the kernel that
this machine takes. The sends of all groups are then one schedule, so that they share the links that they have in
common. Groups that are alike are planned once.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from sim.collectives.fold import folding, reordered
from sim.collectives.schedule import PER_SEND, GroupPlan, Schedule, check_size
from sim.topology.graph import Topology


@folding()
def merged(topology: Topology, axes: tuple[str, ...], groups: tuple[GroupPlan, ...]) -> Schedule:
    """Returns the schedules of all groups as one, with the whole machine's chips and links.

    Groups that are alike send in turn, each its first message, then each its second: so messages that are ready at the
    same time are served in the same order on every link.
    Its columns `origin` and `target` are along the axes of the groups' machines.

    Raises:
        InputError: too many sends together.
    """
    collective, timings = groups[0].plan.collective, {each.plan.timing for each in groups}
    check_size(collective, sum(len(each.plan) for each in groups))
    width = max(len(each.plan.axes) for each in groups)
    runs = [list(run) for _, run in itertools.groupby(groups, key=lambda each: each.plan)]
    columns: dict[str, list[npt.NDArray[np.generic]]] = {}
    order, before = [], 0
    for run in runs:
        for name, column in _columns(run, width, before).items():
            columns.setdefault(name, []).append(column)
        sends = len(run) * len(run[0].plan)
        order.append(before + np.arange(sends).reshape(len(run), -1).T.ravel())
        before += sends
    plan = Schedule(
        collective=collective,
        axes=axes,
        parts=max(each.plan.parts for each in groups),
        timing=timings.pop() if len(timings) == 1 else None,
        groups=groups,
        **{name: np.concatenate(blocks) for name, blocks in columns.items()},
    )
    return reordered(plan, np.concatenate(order))


def _columns(run: Sequence[GroupPlan], width: int, before: int) -> dict[str, npt.NDArray[np.generic]]:
    """Columns of groups that have one plan, after so many sends of others."""
    plan, times = run[0].plan, len(run)
    first = before + np.arange(times, dtype=np.int32)[:, None] * np.int32(len(plan))
    chips, links = (np.stack([getattr(each.group, name) for each in run]) for name in ("chips", "links"))
    columns = {name: np.tile(getattr(plan, name), times) for name in PER_SEND if name not in ("origin", "target")}
    for name in ("origin", "target"):
        given = getattr(plan, name)
        columns[name] = np.tile(np.pad(given, ((0, 0), (0, width - given.shape[1])), constant_values=-1), (times, 1))
    return columns | {
        "src": chips[:, plan.src].ravel(),
        "dst": chips[:, plan.dst].ravel(),
        "link": links[:, plan.link].ravel(),
        "follows": np.where(plan.follows >= 0, plan.follows + first, np.int32(-1)).astype(np.int32).ravel(),
        "dep_counts": np.tile(plan.dep_counts, times),
        "deps": (plan.deps + first).astype(np.int32).ravel(),
    }


def longer_axes(machine: Topology) -> tuple[str, ...]:
    """Returns the axes of a group's machine that are longer than one chip: some algorithms go along one axis only."""
    return tuple(axis.name for axis in machine.axes if axis.size > 1)
