"""Remedies for a scenario that does not fit in memory: each of them mends it, or says by how much it helps."""

from __future__ import annotations

import re

import pytest

from sim.simulate.remedies import add_remedies, memory_of
from sim.simulate.run import run
from sim.specs import load

ALONE = ("sweep=null", "figure=null", "reference=null", "perturb=null")


def too_large(name: str, share: float) -> tuple[str, ...]:
    """Settings of a scenario on chips that have a share of the memory that it needs; of four layers without stages."""
    layers = () if load.scenario(name, ALONE).layout.mesh.pipeline > 1 else ("engine.layers=4",)
    needed = memory_of(load.scenario(name, [*ALONE, *layers])).used_bytes
    return (*ALONE, *layers, f"topology.chip.hbm_capacity.value={int(share * needed)} B")


@pytest.mark.parametrize("share", [0.6, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.9, 0.3))])
@pytest.mark.parametrize("name", load.shipped("scenario"))
def test_each_remedy_of_a_shipped_scenario_made_too_large_mends_it_or_says_what_it_saves(name: str, share: float):
    settings = too_large(name, share)
    scenario = load.scenario(name, settings)
    memory = memory_of(scenario)
    assert not memory.fits
    *remedies, chips = add_remedies(memory, scenario, 8).remedies
    assert re.fullmatch(r"about [\d,]+ chips, if they split all that a chip holds", chips)
    for remedy in remedies:
        change, _, saves = remedy.partition(" (saves ")
        after = memory_of(load.scenario(name, [*settings, *change.split(" with ")]))
        assert after.fits != bool(saves), remedy
        assert after.used_bytes < memory.used_bytes, remedy


def test_the_report_names_them_with_the_excess():
    capacity = "topology.chip.hbm_capacity.value=10 GiB"
    settings = [capacity, "engine.layers=2", "model.layers=2", "workload.batch=100000"]
    memory = run(load.scenario("llama3_8b_tp8_ladder", settings)).report.memory
    assert memory.remedies[0].startswith("workload.batch=")
    mended = [*settings[:3], memory.remedies[0]]
    assert run(load.scenario("llama3_8b_tp8_ladder", mended)).report.memory.fits
    batch = int(memory.remedies[0].partition("=")[2])
    assert not memory_of(load.scenario("llama3_8b_tp8_ladder", [*settings[:3], f"workload.batch={batch + 1}"])).fits


def test_what_fits_has_none_and_is_not_lowered_again(monkeypatch: pytest.MonkeyPatch):
    scenario = load.scenario("llama3_8b_tp8_ladder", ["engine.layers=2"])
    memory = memory_of(scenario)
    monkeypatch.setattr("sim.simulate.remedies.lower_pass", None)
    assert add_remedies(memory, scenario, 8) is memory


def test_a_generation_needs_the_phase_that_needs_more():
    """Weights gathered in the prefill, a cache that decoding fills: the larger of the two, not their sum."""
    scenario = load.scenario("pope_offline_example", ["engine.layers=2"])
    each = [memory_of(phase) for phase in scenario.phases]
    assert memory_of(scenario).used_bytes == max(memory.used_bytes for memory in each)


def test_a_cache_whole_on_every_chip_is_split_over_sequences():
    settings = [
        *ALONE,
        "engine.layers=4",
        "layout.attention=heads",
        "workload.batch=4096",
        "topology.chip.hbm_capacity.value=1 GiB",
    ]
    scenario = load.scenario("palm540b_decode_ws2d", settings)  # multi-query: each chip has the cache of its one head
    memory = memory_of(scenario)
    assert any(each.startswith("layout.attention=batch") for each in add_remedies(memory, scenario, 64).remedies)
