"""Zhang et al. 2025, Ladder Residual: what the scheme gains over standard tensor parallelism, and where it gains most.

Measured values are those of the released code on 8 H100, 1024 tokens of prompt and 512 generated (suite `ladder`).
"""

from __future__ import annotations

import functools

import pytest

from sim.simulate.latency import step_s
from sim.specs import load

NVLINK, WITHOUT_NVLINK = "dgx_h100", "dgx_h100_p2p_disabled"


@functools.cache
def decode_step_s(scheme: str, machine: str = NVLINK, gpus: int = 8, batch: int = 4) -> float:
    """Time of a decode step of Llama-3 70B, s."""
    settings = [f"topology={machine}", f"layout.residual={scheme}", f"layout.mesh.tensor={gpus}"]
    return step_s(load.scenario("llama3_70b_tp8_ladder", [*settings, f"workload.batch={batch}"]))


def speed_up(scheme: str, machine: str = NVLINK, gpus: int = 8, batch: int = 4) -> float:
    """How many times as fast as the standard scheme."""
    return decode_step_s("standard", machine, gpus, batch) / decode_step_s(scheme, machine, gpus, batch)


def test_ladder_is_about_30_percent_faster_on_8_gpus():
    """The paper's headline is 29 %; the simulation says 27 % at batch 4. Within 4 points."""
    assert speed_up("ladder") == pytest.approx(1.29, abs=0.04)


def test_ladder_gains_more_on_more_gpus():
    """Each GPU computes less, and the all-reduces stay."""
    gains = [speed_up("ladder", gpus=gpus) for gpus in (2, 4, 8)]
    assert 1 < gains[0] < gains[1] < gains[2]


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_ladder_gains_more_without_nvlink(batch):
    assert speed_up("ladder", WITHOUT_NVLINK, batch=batch) > speed_up("ladder", batch=batch) + 0.1


@pytest.mark.parametrize("machine", [NVLINK, WITHOUT_NVLINK])
def test_ladder_lies_between_standard_and_no_communication(machine):
    """The paper's upper bound is the model without its all-reduces."""
    times = [decode_step_s(scheme, machine) for scheme in ("no_communication", "ladder", "standard")]
    assert times == sorted(times)


def test_ladder_beats_the_parallel_block_at_small_batches_only():
    """Ladder hides both all-reduces; a parallel block has one of them, and one norm less to compute."""
    assert decode_step_s("ladder", batch=4) < decode_step_s("parallel", batch=4)
    assert decode_step_s("ladder", batch=64) > decode_step_s("parallel", batch=64)


def test_desync_gains_the_more_the_fewer_all_reduces_it_keeps():
    """Of four all-reduces desync2 keeps two and desync4 one."""
    times = [decode_step_s(scheme) for scheme in ("no_communication", "desync4", "desync2", "standard")]
    assert times == sorted(times)
