"""ASTRA-sim's input beside the Chakra traces of a run: network, system, groups and the command that reads them.

    network.yml            topology, size, bandwidth (GiB/s) and latency (ns) of each dimension, analytical back end
    system.json            collective algorithm of each dimension; the duration of computations is that of the traces
    comm_groups.json       ranks of each process group, by `pg_name`
    logical_topology.json  size of each dimension, for the ns-3 back end, which needs a network of its own
    remote_memory.json     a memory pool, where the run has one
    run_astra_sim.sh       the command, and what differs from the run

ASTRA-sim's first dimension varies fastest over the ranks, the last axis of a machine does here: dimensions are the axes
in reverse order. Its analytical back end counts a "GB" of bandwidth as 2^30 bytes. Formats are those of ASTRA-sim 2 as
we know them; ASTRA-sim itself has not been run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from sim.export.chakra_collectives import COPY_TYPES
from sim.program import Kind, Program
from sim.topology.boxes import boxes
from sim.topology.graph import Topology
from sim.units import PS_PER_S

GIB = 2.0**30


class Dimension(Struct, frozen=True):
    """One dimension of ASTRA-sim's network."""

    kind: Literal["Ring", "Switch", "FullyConnected"]
    size: int
    bandwidth: float
    """Bytes/s that a chip sends to one neighbour of a ring, or into a switch."""
    latency_s: float
    """Latency of one link; a message through a switch takes two."""


def write(
    program: Program, topology: Topology, groups: Mapping[str, tuple[int, ...]], folder: Path, name: str
) -> list[Path]:
    """Writes ASTRA-sim's files for the traces `folder`/`name`.RANK.et; returns the paths."""
    axes = dimensions(topology)
    texts = {
        "network.yml": _network(axes),
        "system.json": _json(_system(axes, topology)),
        "comm_groups.json": _json({group: list(ranks) for group, ranks in groups.items()}),
        "logical_topology.json": _json({"logical-dims": [str(axis.size) for axis in axes]}),
        "remote_memory.json": _json(_remote_memory(program)),
        "run_astra_sim.sh": _command(topology, name),
    }
    paths = [folder / file for file in texts]
    for path, text in zip(paths, texts.values(), strict=True):
        path.write_text(text, encoding="utf-8")
    paths[-1].chmod(0o755)
    return paths


def dimensions(topology: Topology) -> list[Dimension]:
    """Returns the dimensions of a machine, the one that varies fastest over the ranks first."""
    if topology.has_lines:
        result = []
        for axis in reversed(topology.axes):
            links = [link for link in topology.links if link.axis == axis.name]
            if axis.size > 1:
                result.append(Dimension("Ring", axis.size, links[0].bandwidth, links[0].latency_s))
        return result
    if topology.chips == 1:
        return [Dimension("FullyConnected", 1, GIB, 0.0)]  # which nothing uses
    inside = boxes(topology)
    size = len(inside[0])
    if len(inside) == 1 or any(len(box) != size for box in inside):
        return [_between(topology, 0, 1, topology.chips)]
    across = _between(topology, inside[0][0], inside[1][0], len(inside))
    return [_between(topology, inside[0][0], inside[0][1], size), across] if size > 1 else [across]


def _between(topology: Topology, src: int, dst: int, size: int) -> Dimension:
    """Returns the dimension along which two chips are neighbours."""
    ways = [[topology.links[link] for link in way] for way in topology.ways(src, dst)]
    bandwidth = sum(min(link.bandwidth for link in way) for way in ways)
    latency_s = max(sum(link.latency_s for link in way) for way in ways)
    if any(len(way) == 1 for way in ways):
        return Dimension("FullyConnected", size, bandwidth, latency_s)
    return Dimension("Switch", size, bandwidth, latency_s / 2)


def _network(axes: list[Dimension]) -> str:
    columns: dict[str, list[Any]] = {
        "topology": [axis.kind for axis in axes],
        "npus_count": [axis.size for axis in axes],
        "bandwidth": [round(axis.bandwidth / GIB, 6) for axis in axes],
        "latency": [round(axis.latency_s * 1e9, 3) for axis in axes],
    }
    units = {"bandwidth": "  # GiB/s of one direction of a link", "latency": "  # ns"}
    return "".join(f"{key}: [ {', '.join(map(str, row))} ]{units.get(key, '')}\n" for key, row in columns.items())


def _system(axes: list[Dimension], topology: Topology) -> dict[str, Any]:
    reducing = ["direct" if axis.kind == "FullyConnected" else "ring" for axis in axes]
    return {
        "scheduling-policy": "LIFO",
        "endpoint-delay": 10,
        "active-chunks-per-dimension": 1,
        "preferred-dataset-splits": 4,
        "all-reduce-implementation": reducing,
        "all-gather-implementation": reducing,
        "reduce-scatter-implementation": reducing,
        "all-to-all-implementation": ["ring" if axis.kind == "Ring" else "direct" for axis in axes],
        "collective-optimization": "localBWAware",
        "local-mem-bw": round(topology.chip.hbm_bandwidth / GIB, 3),
        "boost-mode": 0,
        "roofline-enabled": 0,
    }


def _remote_memory(program: Program) -> dict[str, Any]:
    """Returns the memory pool, by what its first copy takes."""
    pool = [op for op, name in enumerate(program.op_names) if name in COPY_TYPES]
    copies = np.flatnonzero((program.kind == Kind.COPY) & np.isin(program.op, pool))
    if not len(copies):
        return {"memory-type": "NO_MEMORY_EXPANSION"}
    first = copies[0]
    rate = float(program.bytes[first]) / max(1, int(program.busy_ps[first])) * PS_PER_S
    return {
        "memory-type": "PER_NPU_MEMORY_EXPANSION",
        "remote-mem-latency": int(program.flight_ps[first]) // 1000,
        "remote-mem-bw": round(rate / GIB, 3),
    }


def _command(topology: Topology, name: str) -> str:
    options = {
        "workload-configuration": f'"$HERE"/{shlex.quote(name)}',
        "comm-group-configuration": '"$HERE"/comm_groups.json',
        "system-configuration": '"$HERE"/system.json',
        "remote-memory-configuration": '"$HERE"/remote_memory.json',
        "network-configuration": '"$HERE"/network.yml',
    }
    lines = [
        "#!/bin/sh",
        f"# Runs the traces of {name} in ASTRA-sim's analytical back end. What differs from the run here:",
        *(f"# - {each}" for each in differences(topology)),
        "# For ns-3, add --logical-topology-configuration=logical_topology.json and a network of ns-3's.",
        'HERE=$(cd "$(dirname "$0")" && pwd)',
        " \\\n  ".join(
            [
                '"${ASTRA_SIM:-AstraSim_Analytical_Congestion_Aware}"',
                *(f"--{key}={value}" for key, value in options.items()),
            ]
        ),
    ]
    return "\n".join(lines) + "\n"


def differences(topology: Topology) -> list[str]:
    """Returns what ASTRA-sim does not have of a machine, one sentence each."""
    result = [
        "A process group runs as one ring in the order of its ranks; groups along several axes are slower for it"
        " (stack.collective_axes=one_by_one has a collective per axis).",
        "A chip has one collective in progress at a time; export runs with one communication stream.",
    ]
    if topology.software.collective_overhead_s:
        overhead_us = topology.software.collective_overhead_s * 1e6
        result.append(f"Collectives start without the {overhead_us:g} us that a launch takes here.")
    if topology.software.nccl is not None:
        result.append("NCCL's choice of kernel and what its protocols add per message are left out.")
    if topology.reduction.enabled:
        result.append("Switches do not add up (NVLS); set collectives.all_reduce=ring to compare runs without it.")
    lines = [axis.name for axis in topology.axes if topology.has_lines and axis.size > 2 and not axis.ring]
    if lines:
        result.append(f"Axes without a wraparound ({', '.join(lines)}) are rings, as there are no lines.")
    if not topology.has_lines and len({len(box) for box in boxes(topology)}) > 1:
        result.append("Boxes of different sizes are one network with the links of chips 0 and 1.")
    return result


def _json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2) + "\n"
