"""A chip that is late by next to nothing changes the time of a collective by next to nothing, on any machine."""

from __future__ import annotations

import pytest
from support.shipped_machines import machine, one_of_each_wiring, wired_differently

from sim.collectives import COLLECTIVES, algorithm_names, algorithm_of
from sim.errors import InputError
from sim.specs import PerturbSpec, load
from sim.studies.bench.collective import CollectiveSpec, simulate_perturbed_times_s, simulate_time_s

MOST_CHIPS = 16
"""Larger machines are boxes like those of smaller ones, more of them."""
GPU_MACHINES = [name for name in load.shipped("topology") if load.topology_spec(name).kind != "torus"]
MACHINES = wired_differently([name for name in GPU_MACHINES if machine(name).chips <= MOST_CHIPS])
SIZES = (8 * 2.0**10, 2.0**20, 64 * 2.0**20)
LATE = PerturbSpec.model_validate({"stragglers": [{"chips": [1], "delay": "1 ns"}]})


def changes(name: str) -> list[str]:
    """Collectives of a machine that take longer or shorter by more than 2 us and 2 % because chip 1 is 1 ns late."""
    topology, found = machine(name), []
    for collective in COLLECTIVES:
        for algorithm in algorithm_names(collective):
            for size in SIZES:
                try:
                    if algorithm_of(topology, collective, algorithm, size) != algorithm:
                        continue  # it stands for another, which has its own turn
                    before = simulate_time_s(topology, CollectiveSpec(collective, ("g",), size, algorithm))
                except InputError:
                    continue  # not on this machine
                (after,) = simulate_perturbed_times_s(
                    topology, CollectiveSpec(collective, ("g",), size, algorithm), LATE
                )
                if abs(after - before) > max(2e-6, 0.02 * before):
                    found.append(f"{collective} {algorithm} {size:.0f}: {before * 1e6:.1f} to {after * 1e6:.1f} us")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES, less=["dgx_h100_x2", "dgx1_v100", "a100_pcie_bridges"]))
def test_a_chip_one_nanosecond_late_changes_no_time_by_more_than_two_microseconds_or_per_cent(name: str):
    assert changes(name) == []
