"""Fields of a collective's kernel in a PyTorch profile: name, process group, number format and elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from msgspec import UNSET, Struct, UnsetType

from sim.layouts.sharding import ITEM_BYTES
from sim.program import Floats, Ints, Kind, Program
from sim.report.ops import parse_op
from sim.topology.graph import Topology
from sim.topology.mesh import mesh_groups

_NAMES = {
    "all-gather": "_allgather_base",
    "reduce-scatter": "_reduce_scatter_base",
    "all-reduce": "allreduce",
    "all-to-all": "all_to_allv",
    "broadcast": "broadcast",
    "permute": "send",
}
"""Names of collectives in PyTorch's profiler."""

_KERNELS = {
    "all-gather": "AllGather",
    "reduce-scatter": "ReduceScatter",
    "all-reduce": "AllReduce",
    "all-to-all": "SendRecv",
    "broadcast": "Broadcast",
    "permute": "SendRecv",
    "send": "SendRecv",
}

_DTYPES = {
    "bf16": "BFloat16",
    "fp16": "Half",
    "int8": "Char",
    "fp8": "Float8_e4m3fn",
    "mxfp8": "Float8_e4m3fn",
    "int4": "Byte",
    "nvfp4": "Float4_e2m1fn_x2",
    "mxfp4": "Float4_e2m1fn_x2",
    "f32": "Float",
    "int32": "Int",
}
"""Number formats as PyTorch's `c10::ScalarType` names them."""


def kernel_name(op: str) -> str:
    """Returns the kernel name of a collective: `ncclDevKernel_AllGather yz residual` (tools read `nccl...Kernel`)."""
    parsed = parse_op(op)
    kernel = f"ncclDevKernel_{_KERNELS.get(parsed.group, 'SendRecv')}"
    return " ".join(part for part in (kernel, parsed.over, parsed.operand) if part)


class Ranks(Struct, frozen=True, eq=False):
    """With whom a chip does each collective op, and how PyTorch's profiler writes that."""

    size: Ints
    """[ops]."""
    described: dict[str, list[str | UnsetType]]
    """[ops] by field; those that are not known are not written."""
    item_bytes: Floats
    """[ops] bytes of an element, 0 where the number format is not known."""
    group: npt.NDArray[np.str_]
    """[ops] class of the collective."""

    def elements(self, program: Program, begin: npt.NDArray[np.integer]) -> tuple[Ints, Ints]:
        """Elements that a chip puts into each collective and gets out of it, 0 where the format is not known.

        Args:
            begin: the collectives, by their BEGIN.
        """
        op = program.op[begin]
        item_bytes, members = self.item_bytes[op], np.maximum(self.size[op], 1)
        counts = np.divide(program.bytes[begin], item_bytes, out=np.zeros(len(op)), where=item_bytes > 0)
        into = np.where(self.group[op] == "all-gather", counts / members, counts)
        out = np.where(self.group[op] == "reduce-scatter", counts / members, counts)
        return into.round().astype(np.int64), out.round().astype(np.int64)

    def columns(self, op: npt.NDArray[np.integer]) -> dict[str, list[Any]]:
        """Returns the fields of collectives by their ops, with underscores for the spaces of their names."""
        described = {name: [values[each] for each in op.tolist()] for name, values in self.described.items()}
        return {"Group_size": self.size[op].tolist()} | described

    @classmethod
    def of(cls, program: Program, topology: Topology, chip: int) -> Ranks:
        """Builds ranks along the mesh axes of each op; for an op without axes those of its first collective."""
        axes = dict(program.axes)
        begins = np.flatnonzero((program.kind == Kind.BEGIN) & (program.chip == chip))
        ops, first = np.unique(program.op[begins], return_index=True)
        items = {program.op_names.index(name): dtype for name, dtype in program.dtypes if name in program.op_names}
        item_bytes = np.zeros(len(program.op_names))
        item_bytes[list(items)] = [ITEM_BYTES[dtype] for dtype in items.values()]
        size = np.zeros(len(program.op_names), dtype=np.int64)
        names: list[str | UnsetType] = [UNSET] * len(program.op_names)
        described = {"Collective_name": names, "Process_Group_Ranks": names.copy(), "dtype": names.copy()}
        for op, instance in zip(ops.tolist(), program.collective[begins[first]].tolist(), strict=True):
            along = axes.get(program.op_names[op], ())
            members = _along(topology, along, chip) or _exchanging(program, instance, chip)
            size[op] = len(members)
            described["Collective_name"][op] = _NAMES.get(parse_op(program.op_names[op]).group, "send")
            described["Process_Group_Ranks"][op] = str(sorted(members))
            if op in items:
                described["dtype"][op] = _DTYPES[items[op]]
        return cls(size, described, item_bytes, np.array([parse_op(name).group for name in program.op_names]))


def _along(topology: Topology, axes: tuple[str, ...], chip: int) -> set[int]:
    """Returns the chips that differ from `chip` along mesh axes only; none on a machine without such axes."""
    if not axes or not set(axes) <= {axis.name for axis in topology.mesh}:
        return set()
    groups = mesh_groups(topology, axes)
    return set(groups[(groups == chip).any(axis=1)].ravel().tolist())


def _exchanging(program: Program, instance: int, chip: int) -> set[int]:
    """Returns the chips that the messages of a collective connect with `chip`."""
    sends = np.flatnonzero((program.kind == Kind.SEND) & (program.collective == instance))
    members, edges = {chip}, set(zip(program.chip[sends].tolist(), program.peer[sends].tolist(), strict=True))
    while new := {c for edge in edges for c in edge if members & set(edge)} - members:
        members |= new
    return members
