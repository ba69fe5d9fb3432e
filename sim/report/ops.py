"""Names of ops: `all_gather(yz) residual` is an all-gather over y and z of the residual."""

from __future__ import annotations

import re
from functools import cache

import numpy as np
import numpy.typing as npt
from msgspec import Struct

from sim.program import Kind, Program

COLLECTIVES = {
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "all_reduce": "all-reduce",
    "all_to_all": "all-to-all",
    "dispatch": "dispatch",
    "combine": "combine",
    "broadcast": "broadcast",
    "permute": "permute",
    "send": "send",
}
"""Class that a collective is drawn and listed as, by its op name."""

EXCHANGES = ("dispatch", "combine")
"""Classes of the exchange of tokens with experts, whatever collective it is."""

COPIES = ("fetch", "evict")
"""Ops of copy engines."""

_BY_FIRST_WORD = {"attention": "attention", "shared ": "shared experts"}
"""Classes of compute other than matmuls."""

EXCHANGE_KERNEL = "exchange kernel"
"""Class of kernels that send or receive an exchange's tokens on the compute stream; they multiply nothing."""
_EXCHANGE_KERNEL = re.compile(rf".* ({'|'.join(EXCHANGES)}) (send|receive)")

WAIT = "wait"
"""Class of requests, calls and polls of a pipeline."""

_NAME = re.compile(r"(?P<collective>\w+)(\((?P<over>[^()]*)\))?\s*(?P<operand>.*)")


class Op(Struct, frozen=True):
    """Parts of an op's name."""

    group: str
    """Class: `matmul`, `attention`, `all-gather`, `reduce-scatter`, ..."""
    over: str = ""
    """Mesh axes of a collective, as they are written: `Program.axes` has their names."""
    operand: str = ""
    """Operand of a collective, or the name of a compute op."""


@cache
def parse_op(name: str) -> Op:
    """Parses an op's name. A name that is no collective's is compute's."""
    if name in COPIES:
        return Op("copy", operand=name)
    match = _NAME.fullmatch(name)
    if match and match["collective"] in COLLECTIVES:
        group, operand = COLLECTIVES[match["collective"]], match["operand"]
        way, _, rest = operand.partition(" ")  # tokens that an all-to-all or a gather exchanges
        return Op(way, match["over"] or "", rest) if way in EXCHANGES else Op(group, match["over"] or "", operand)
    if _EXCHANGE_KERNEL.fullmatch(name):
        return Op(EXCHANGE_KERNEL, operand=name)
    group = next((group for word, group in _BY_FIRST_WORD.items() if name.startswith(word)), "matmul")
    return Op(group, operand=name)


def classify_ops(program: Program) -> npt.NDArray[np.str_]:
    """Returns the class of each op of a program, [ops]: compute without FLOPs is `elementwise`, requests and polls are
    `wait`."""
    groups = np.array([parse_op(name).group for name in program.op_names])
    others = ~np.isin(groups, [*COLLECTIVES.values(), "copy"])
    flops = np.bincount(program.op, weights=program.flops, minlength=len(groups))
    does = np.bincount(program.op[program.kind != Kind.EVENT], minlength=len(groups))
    groups = np.where(others & (flops == 0) & (groups != EXCHANGE_KERNEL), "elementwise", groups)
    return np.where(others & (does == 0), WAIT, groups)
