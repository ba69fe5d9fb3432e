"""Chakra nodes of single messages: every task of a program as a node of its chip's rank.

    compute, launches, ends of collectives     COMP_NODE      num_ops, tensor_size
    a message that arrives                     COMM_SEND_NODE comm_src, comm_dst, comm_size, comm_tag
    ... at its receiver                        COMM_RECV_NODE the same; who waits for the message waits for this node
    a hop of a message on its way              METADATA_NODE, after which the next hop or the message follows

Durations are whole microseconds in the schema; `busy_ps`, `flight_ps`, the resources held and what a task takes of
another's rate (`slows`, `slow_ppm`, `yields_ppm`) are attributes beside them, with which the same program can be read
again.
Computations carry the number format of the run, `dtype`. `is_cpu_op` is true for all but computations and messages.
"""

from __future__ import annotations

import numpy as np

from sim.errors import InputError
from sim.export.attributes import Value
from sim.export.chakra import Node, NodeType
from sim.program import FULL_PPM, Kind, Program


def message_nodes(program: Program, chips: int, dtype: str = "") -> list[list[Node]]:
    """Returns the nodes of every rank.

    A node has the number of its task; the node that receives a message has that number + the number of tasks.

    Args:
        dtype: number format of the computations, where it is known.

    Raises:
        InputError: a task waits for a task of another chip other than by a message, as in switches that add up.
    """
    count = len(program)
    kind, chip, peer = (column.tolist() for column in (program.kind, program.chip, program.peer))
    waiter = np.repeat(np.arange(count), np.diff(program.dep_offset))
    arrives = np.zeros(count, dtype=bool)
    into = (program.kind[program.deps] == Kind.SEND) & (program.peer[program.deps] == program.chip[waiter])
    # What a chip waits for that it sent itself is a hop, unless it sends to itself.
    arrives[program.deps[into]] = True
    ranks: list[list[Node]] = [[] for _ in range(chips)]
    for task in range(count):
        deps = []
        for dep in program.dependencies(task).tolist():
            if kind[dep] == Kind.SEND and peer[dep] == chip[task] and arrives[dep]:
                deps.append(dep + count)
            elif chip[dep] == chip[task]:
                deps.append(dep)
            else:
                rule = "Chakra traces have no way to wait for another rank but by a message"
                hint = "export collectives instead of messages"
                raise InputError(
                    rule, where=program.describe(task), got=f"a wait for {program.describe(dep)}", hint=hint
                )
        if (before := int(program.follows[task])) >= 0:
            deps.append(before)
        held = int(program.resource[task])
        common: dict[str, Value] = {
            "is_cpu_op": kind[task] not in (Kind.COMPUTE, Kind.SEND),
            "resource": program.resources[held] if held >= 0 else "",
            "busy_ps": int(program.busy_ps[task]),
            "flight_ps": int(program.flight_ps[task]),
            "layer": int(program.layer[task]),
        }
        if before >= 0:
            common["follows"] = True
        if program.slow_ppm[task]:
            common |= {"slows": program.resources[program.slows[task]], "slow_ppm": int(program.slow_ppm[task])}
        if program.yields_ppm[task] != FULL_PPM:
            common["yields_ppm"] = int(program.yields_ppm[task])
        op = program.op_names[program.op[task]]
        duration = int(program.busy_ps[task] + program.flight_ps[task] + 500_000) // 1_000_000
        if kind[task] == Kind.SEND and arrives[task]:
            message: dict[str, Value] = {
                "comm_src": chip[task],
                "comm_dst": peer[task],
                "comm_tag": task,
                "comm_size": round(float(program.bytes[task])),
            }
            ranks[chip[task]].append(Node(task, op, NodeType.COMM_SEND, tuple(deps), duration, common | message))
            received: dict[str, Value] = {"is_cpu_op": False, **message}
            ranks[peer[task]].append(Node(task + count, op, NodeType.COMM_RECV, (), 0, received))
        elif kind[task] == Kind.SEND:
            size: dict[str, Value] = {"comm_size": round(float(program.bytes[task]))}
            ranks[chip[task]].append(Node(task, op, NodeType.METADATA, tuple(deps), duration, common | size))
        else:
            work: dict[str, Value] = {
                "num_ops": round(float(program.flops[task])),
                "tensor_size": round(float(program.bytes[task])),
                "compute_ps": int(program.compute_ps[task]),
                "memory_ps": int(program.memory_ps[task]),
                "overhead_ps": int(program.overhead_ps[task]),
            }
            if dtype and kind[task] == Kind.COMPUTE:
                work["dtype"] = dtype
            ranks[chip[task]].append(Node(task, op, NodeType.COMP, tuple(deps), duration, common | work))
    return ranks
