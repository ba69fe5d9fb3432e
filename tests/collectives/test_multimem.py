"""Kernels on multicast memory: what they carry out, what passes through ports, how blocks limit them."""

import numpy as np
import pytest
from support.run_schedule import time_s

from sim.collectives import algorithm_of, multimem, schedule
from sim.collectives.chunk_replay import replay
from sim.errors import InputError
from sim.specs import load
from sim.topology import Topology, build
from sim.topology.folding import folded
from sim.topology.lower_bound import lower_bound

KERNELS = [(collective, name) for collective, kernels in multimem.KERNELS.items() for name in kernels]
PORT, MIB = 370.8e9, 2**20


def machine(*settings: str, name: str = "dgx_h100") -> Topology:
    return build(*load.machine(name, [*settings]))


@pytest.mark.parametrize("chips", [1, 2, 3, 8])
@pytest.mark.parametrize("rounds", [1, 5])
@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_every_kernel_carries_out_its_collective(collective: str, kernel: str, rounds: int, chips: int) -> None:
    topology = machine(f"chips={chips}")
    replay(multimem.KERNELS[collective][kernel](topology, ("g",), rounds), topology)


@pytest.mark.parametrize("name", ["dgx_h100", "dgx_h100_p2p_disabled"])
@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_every_kernel_carries_out_its_collective_at_the_size_that_it_is_planned_for(
    collective: str, kernel: str, name: str
) -> None:
    topology = machine(name=name)
    for size in (1e3, 1e6):
        plan = schedule(topology, collective, ("g",), kernel, size)
        replay(plan, topology)
        assert time_s(topology, plan, size) >= lower_bound(topology, collective, ("g",), size)


@pytest.mark.parametrize(
    ("collective", "kernel", "sent", "received"),
    [
        ("reduce_scatter", "multimem", 1, 1 / 8),
        ("all_reduce", "multimem", 9 / 8, 9 / 8),
        ("all_reduce", "multimem_one_shot", 8, 1),
    ],
)
def test_what_passes_through_a_port(collective: str, kernel: str, sent: float, received: float) -> None:
    """The switch fetches a part from every chip per load of its sum, and passes a store on to all."""
    topology = machine()
    plan = schedule(topology, collective, ("g",), kernel, 64 * MIB)
    through = np.bincount(plan.link, plan.share, minlength=16)
    assert through[0::2] == pytest.approx(sent)
    assert through[1::2] == pytest.approx(received)


@pytest.mark.parametrize(("collective", "kernel"), KERNELS)
def test_one_chip_stands_for_all(collective: str, kernel: str) -> None:
    whole = machine()
    one = folded(whole)
    times = [time_s(each, schedule(each, collective, ("g",), kernel, MIB), MIB) for each in (whole, one)]
    assert times[0] == times[1]


def rate(blocks: int) -> float:
    """Bytes per second through a port, between 256 and 512 MiB: as many rounds."""
    topology = machine("stack=best_kernels", f"stack.multimem.value.blocks={blocks}")
    sizes = 256 * MIB, 512 * MIB
    first, last = (time_s(topology, schedule(topology, "all_reduce", ("g",), "multimem", size), size) for size in sizes)
    return 9 / 8 * (sizes[1] - sizes[0]) / (last - first)


def test_a_kernel_moves_what_its_blocks_can_or_what_the_port_carries() -> None:
    """Of 101 GB/s each: one, two and three are a limit, four are not. Three rounds of 128 fill the pipeline."""
    for blocks in (1, 2, 3):
        assert rate(blocks) == pytest.approx(blocks * 101e9, rel=3 / 128)
    assert rate(4) == rate(32) == pytest.approx(0.837 * PORT, rel=3 / 128)


def test_a_kernel_holds_a_multiprocessor_per_block() -> None:
    topology = machine("stack=best_kernels", "stack.multimem.value.blocks=4")
    timing = schedule(topology, "all_reduce", ("g",), "multimem", MIB).timing
    assert timing is not None
    assert timing.channels == 4


def test_machines_without_one_switch_that_reduces_refuse() -> None:
    for name in ("dgx_a100", "dgx_h100_x2", "tpu_v5e_2x4"):
        with pytest.raises(InputError, match="'multimem' of all_reduce needs all chips on one switch that reduces"):
            algorithm_of(machine(name=name), "all_reduce", "multimem", MIB)
