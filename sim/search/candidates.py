"""All choices of a search: every machine, batch, layout and attention sharding, and every overlap of GPUs.

A candidate is a point of a sweep over a shipped scenario, so it is measured, and spread over processes, like one.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Literal

from sim import load
from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.errors import InputError
from sim.search.machines import Counts, machines
from sim.sweep.points import NO_SWEEP, Point

BASE = "palm540b_decode_ws2d"
"""The shipped scenario whose fields the candidates override."""

Phase = Literal["decode", "prefill"]

AS_THE_STACK = "as the stack"

_CHOICES: dict[bool, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    True: (PAPER_LAYOUTS, ("heads", "batch"), (AS_THE_STACK,)),
    False: (("tensor_parallel",), ("heads",), ("none", "micro_batches", "chunked_matmul")),
}
"""Layouts, attention shardings and overlaps of a torus, and of switches and graphs. A torus runs in the one mode of its
stack, which is what was validated."""


def candidates(
    model: str,
    topologies: Sequence[str],
    phase: Phase,
    batches: Sequence[int],
    tokens: int,
    generate: int,
    dtype: str,
    settings: Sequence[str] = (),
    chips: Counts | None = None,
) -> list[Point]:
    """All combinations; those that are not legal say so when they are measured.

    Args:
        tokens: of the prompt of a prefill, of the context of a decode step.
        dtype: of the weights.
        settings: `key=value` of every candidate.
        chips: numbers of chips, as `machines` takes them.

    Raises:
        InputError: no such model or machine.
    """
    load.model(model)
    length = {"context": tokens, "generate": generate} if phase == "decode" else {"prompt": tokens}
    found = []
    for machine, batch in itertools.product(machines(topologies, chips, settings), batches):
        for ffn, attention, overlap in itertools.product(*_CHOICES[machine.torus]):
            workload = {"phase": phase, "batch": batch, "weights": dtype, **length}
            layout = {"ffn": ffn, "attention": attention, "overlap": overlap}
            choices = {"topology": machine.topology, "mesh": machine.mesh, "batch": str(batch), **layout}
            if overlap == AS_THE_STACK:
                del layout["overlap"]
            fields = {"topology": machine.topology, "model": model, "workload": workload, "layout": layout}
            texts = (f"{key}={json.dumps(value)}" for key, value in fields.items())
            found.append(Point(choices, (*NO_SWEEP, *texts, *settings, *machine.settings)))
    return found


def batches(text: str) -> list[int]:
    """`64`, or `1..1024`: all powers of two times the first up to the last. Raises InputError."""
    first, dots, last = text.partition("..")
    ends = first, (last if dots else first)
    if not all(end.isdecimal() and len(end) < 16 and int(end) > 0 for end in ends) or int(ends[0]) > int(ends[1]):
        raise InputError("must be a batch or a range of them", where="--batch", got=text, hint="such as 1..1024")
    result = [int(first)]
    while result[-1] * 2 <= int(ends[1]):
        result.append(result[-1] * 2)
    return result
