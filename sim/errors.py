"""Errors a user can meet: one line that says where, which rule, what was got and what to do."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Sequence
from typing import Self

from sim.terminal import printable

_LONGEST = 80
"""Characters of an offending value that a message repeats."""
_LONGEST_MESSAGE = 1_000
"""Characters of a message: file names, keys and names from a file may be of any length."""
INTERNAL = "internal error"
"""Beginning of a message about a fault of this package."""
_LONGEST_NAME = 100
"""Characters of a name for which one that looks alike is searched."""
MOST_NAMES = 40
"""Names that a message lists."""
_VALUES = reprlib.Repr()
_VALUES.maxstring = _VALUES.maxother = _VALUES.maxlong = 2 * _LONGEST
_VALUES.maxlist = _VALUES.maxtuple = _VALUES.maxdict = _LONGEST // 4


class InputError(ValueError):
    """Bad input from a user: a file, a field, an option or a path. The command line turns it into exit code 2.

    Args:
        rule: what is required, as a statement.
        where: file and field path (`scenarios/x.yaml: layout.ffn`), or the option.
        got: the offending value.
        hint: what to do about it.
    """

    def __init__(self, rule: str, *, where: str = "", got: object = None, hint: str = "") -> None:
        self.rule, self.where, self.got, self.hint = rule, where, got, hint
        text = f"{where}: {rule}" if where else rule
        if got is not None:
            value = _VALUES.repr(got)
            text += f", got {value if len(value) <= _LONGEST else value[:_LONGEST] + ' ...'}"
        if hint:
            text += f"; {hint}"
        super().__init__(one_line(text))

    def within(self, where: str) -> Self:
        """The same error, placed in a file or option."""
        return type(self)(
            self.rule, where=f"{where}: {self.where}" if self.where else where, got=self.got, hint=self.hint
        )


class LayoutError(InputError):
    """A layout step that its tensor's sharding does not allow, or a mesh that does not divide a dimension."""


class DeadlockError(RuntimeError):
    """The simulation stopped with tasks that never became ready; the message names them."""


def internal(error: Exception) -> str:
    """Returns the message for an exception that this package should never raise."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return one_line(f"{INTERNAL}: {text}; please report it with what `sim --traceback ...` prints")


def one_line(text: str) -> str:
    """The text in one line of bounded length."""
    text = printable(" ".join(text.split()))
    return text if len(text) <= _LONGEST_MESSAGE else f"{text[:_LONGEST_MESSAGE]} ..."


def listed(names: Sequence[str]) -> str:
    """`a, b, c`; of many names the first and how many there are."""
    shown = ", ".join(names[:MOST_NAMES])
    return shown if len(names) <= MOST_NAMES else f"{shown}, ... ({len(names):,} in all)"


def closest(got: str, allowed: Iterable[str]) -> str | None:
    """The allowed name that looks most like `got`, upper or lower case; None if none does."""
    if len(got) > _LONGEST_NAME:
        return None
    names = {name.lower(): name for name in allowed}
    close = difflib.get_close_matches(got.lower(), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None


def guess(got: str, allowed: Iterable[str]) -> str:
    """`did you mean 'x'?` for the closest allowed name, empty if none looks alike; of a feature that is known and not
    simulated, that it is not."""
    close = closest(got, allowed)
    return describe_unsimulated(got) or (f"did you mean '{close}'?" if close else "")


def suggest(got: str, allowed: Iterable[str]) -> str:
    """What `guess` returns, else the list of allowed names."""
    names = sorted(allowed)
    return guess(got, names) or (f"choose from {listed(names)}" if names else "")


_FEATURES = {
    "adapters such as LoRA are not simulated; a matmul has the weights of the model alone": "lora, adapter, adapters",
    "continuous batching is not simulated; the sequences of a batch begin and end together": (
        "continuous batching, inflight batching, in flight batching, dynamic batching"
    ),
    "draft models are not simulated; model.mtp is a module that proposes tokens": "draft model, medusa, eagle",
    "paged attention is not simulated; a step reads the cache of each sequence in one piece": "paged, pagedattention",
    "training is not simulated; a scenario is forward passes": (
        "train, training, backward, gradient, gradients, optimizer, zero stage, zero1, zero2, zero3"
    ),
    "finding cached prefixes is not simulated; workload.context of a prefill is one": "prefix caching, prefix cache",
    "prefill and decode on chips of their own are two scenarios; layout.kv_transfer sends the cache of the first": (
        "disaggregated, disaggregation"
    ),
    "beam search is not simulated; a sequence has one continuation": "beam, beams",
    "state-space layers are not simulated": "mamba, ssm, state space",
    "power and energy are not simulated": "energy, power, watts, joules",
    "packets and congestion control are not simulated; messages queue at links and none is lost": (
        "packet loss, congestion control, ecn, pfc, dcqcn"
    ),
}
"""Sentences, and the words of a key or a value, separated by spaces, that ask for the feature."""


def describe_unsimulated(text: str) -> str:
    """Returns a sentence on the feature that a key or a value asks for; empty where it names none.

    >>> describe_unsimulated("num_beams")
    'beam search is not simulated; a sequence has one continuation'
    """
    words = f" {' '.join(re.findall('[a-z0-9]+', text.lower()))} "
    found = (line for line, terms in _FEATURES.items() if any(f" {term} " in words for term in terms.split(", ")))
    return next(found, "")
