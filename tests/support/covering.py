"""Whether a program of all chips is that of a few, over and over: what makes folding exact, task for task.

Every task of the whole is of a kind, a task of the few. Where equal kinds take the same times, wait for the same kinds
and hold the same resources, and every resource is held (and slowed) by one task of each of its kinds in their order,
the engine's queues are at every moment those of the few, so each task has the times of its kind.
"""

from collections.abc import Sequence

import numpy as np

from sim.program import Program
from sim.topology.graph import Topology


def kinds(whole: Program, few: Program, folded: Topology) -> list[int]:
    """Of every task of the whole, the task of the few at the same place among those of its op on its chip."""
    seen: dict[tuple[int, str], int] = {}
    own: dict[tuple[int, str, int], int] = {}
    for task, (chip, op) in enumerate(zip(few.chip.tolist(), few.op.tolist(), strict=True)):
        key = chip, few.op_names[op]
        own[*key, seen.setdefault(key, 0)] = task
        seen[key] += 1
    seen, found = {}, []
    for chip, op in zip(whole.chip.tolist(), whole.op.tolist(), strict=True):
        key = chip, whole.op_names[op]
        found.append(own[folded.representative_of(chip), key[1], seen.setdefault(key, 0)])
        seen[key] += 1
    return found


def resources(whole: Program, few: Program, folded: Topology) -> list[int]:
    """Of every resource of the whole, the one of the few that stands for it."""
    number = {name: i for i, name in enumerate(few.resources)}
    chips, links = folded.total_chips, folded.representative_links.tolist()
    found = []
    for i, name in enumerate(whole.resources):
        chip, colon, kind = name.partition(":")
        if chips <= i < chips + len(links):
            found.append(folded.chips + links[i - chips])
        else:
            found.append(number[f"{folded.representative_of(int(chip))}:{kind}" if colon else name])
    return found


def differences(whole: Program, few: Program, folded: Topology) -> list[str]:
    """What of `whole` is not as in `few`; empty where every chip has the times of the one that stands for it."""
    kind, stands = np.array(kinds(whole, few, folded)), np.array(resources(whole, few, folded))
    found = []
    for name in ("busy_ps", "flight_ps", "poll_ps", "kind", "bytes", "flops", "layer", "slow_ppm", "yields_ppm"):
        if (getattr(whole, name) != getattr(few, name)[kind]).any():
            found.append(name)
    for task, own in enumerate(kind.tolist()):
        needs, own_needs = kind[whole.dependencies(task)], few.dependencies(own)
        polls = bool(whole.poll_ps[task]) and needs[0] != own_needs[0]  # from the end of the first on
        if polls or set(needs.tolist()) != set(own_needs.tolist()):
            found.append(f"what {whole.describe(task)} waits for")
        held, before = int(whole.resource[task]), int(whole.follows[task])
        if (int(stands[held]) if held >= 0 else -1) != few.resource[own]:
            found.append(f"what {whole.describe(task)} holds")
        if (int(kind[before]) if before >= 0 else -1) != few.follows[own]:
            found.append(f"what {whole.describe(task)} follows")
    for what in ("holds", "slows"):
        own_users = _users(few, what)
        for resource, users in enumerate(_users(whole, what)):
            if kind[users].tolist() != list(own_users[int(stands[resource])]):
                found.append(f"who {what} {whole.resources[resource]}")
    return found


def _users(program: Program, what: str) -> list[Sequence[int]]:
    """Per resource, the tasks that hold or slow it, in order."""
    column = program.resource if what == "holds" else program.slows
    return [np.flatnonzero(column == resource).tolist() for resource in range(len(program.resources))]
