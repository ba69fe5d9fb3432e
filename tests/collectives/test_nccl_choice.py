"""NCCL's choice of a kernel against the fastest of its kernels, all of them simulated."""

from __future__ import annotations

import pytest
from support.shipped_machines import WIRED_DIFFERENTLY, machine, one_of_each_wiring

from sim.collectives import ON_NCCL
from sim.collectives.nccl import kernels as library
from sim.specs import load
from sim.studies.bench.collective import CollectiveSpec, run_collective, simulate_time_s
from sim.topology import build

KIB, MIB = 2**10, 2**20
SIZES = (8, 64 * KIB, 256 * KIB, MIB, 8 * MIB, 64 * MIB)
KNOWN = {
    # The tuner counts LL at 39 GB/s on two boxes, however many channels and adapters there are.
    ("dgx_h100_x2", "all_reduce"): 1.7,
    ("dgx_h100_x2_p2p_disabled", "all_gather"): 3.2,
    ("dgx_h100_x2_p2p_disabled", "reduce_scatter"): 3.2,
    ("dgx_h100_x2_p2p_disabled", "all_reduce"): 2.6,
    ("dgx_h100_x2_p2p_disabled", "broadcast"): 3.3,
    ("dgx_h100_x2_p2p_disabled", "reduce"): 3.3,
    # The tuner counts no time in which the first chunk of Simple comes to the last chip.
    ("dgx_h100_p2p_disabled", "broadcast"): 2.2,
    ("dgx_h100_p2p_disabled", "reduce"): 2.2,
    # Decoding without peer-to-peer access was measured not to sum small arrays in the switch.
    ("dgx_h100_p2p_disabled", "all_reduce"): 2.5,
}
"""Largest ratio where NCCL's own choice is slower than 1.5 times the fastest kernel, and why."""
SMALL = [name for name in WIRED_DIFFERENTLY if machine(name).chips <= 16]


@pytest.mark.parametrize("collective", ON_NCCL)
@pytest.mark.parametrize("name", one_of_each_wiring(SMALL, less=["dgx_h100_x2", "a100_pcie_bridges", "dgx1_v100"]))
def test_a_choice_is_close_to_the_fastest_kernel_or_names_it(name: str, collective: str) -> None:
    topology = machine(name)
    kernels = library.offered(topology, collective)
    for size in SIZES:
        chosen = run_collective(topology, CollectiveSpec(collective, ("g",), size))
        times = {
            kernel: simulate_time_s(topology, CollectiveSpec(collective, ("g",), size, kernel)) for kernel in kernels
        }
        best = min(times, key=times.__getitem__)
        ratio = chosen.time_s / times[best]
        assert ratio < KNOWN.get((name, collective), 1.5), size
        assert any(f"; {best} is " in note for note in chosen.notes) == (ratio >= 1.5)


def test_a_kernel_that_was_asked_for_is_not_compared() -> None:
    row = run_collective(machine("dgx_h100_p2p_disabled"), CollectiveSpec("all_reduce", ("g",), MIB, "ring_ll128"))
    assert not [note for note in row.notes if "times faster" in note]


def test_links_inside_boxes_may_name_a_network():
    """It says how NCCL waits between boxes; a link of another kind that names one is as one that names none."""
    times = []
    for settings in ([], ["link.network=infiniband"]):
        topology = build(*load.machine("dgx_h100", settings))
        times.append(run_collective(topology, CollectiveSpec("all_reduce", ("g",), MIB, "ring_ll")).time_s)
    assert times[0] == times[1]
