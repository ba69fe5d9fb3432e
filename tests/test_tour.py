"""A tour of the simulator: one machine, one collective, one layer, one scenario, one study. Read this file first."""

import csv

import numpy as np
import pytest
from support.commands import call
from support.forward_passes import passes
from support.machines import torus

from sim import api
from sim.specs.uses import PRESETS
from sim.studies.bench.collective import CollectiveSpec, simulate_time_s


def test_a_machine_is_chips_joined_by_links():
    ring = torus(4, bandwidth=1e9, latency_s=1e-6)  # one axis, x, of 4 chips; 1 GB/s in each direction, 1 us per hop
    assert ring.chips == 4
    assert len(ring.links) == 8  # to both neighbours; a link is one direction


def test_a_collective_takes_its_bytes_and_its_hops():
    ring = torus(4, bandwidth=1e9, latency_s=1e-6)
    # All-gather of 4 MB around one direction: 3 steps, each of which sends a shard of 1 MB (1 ms) over a hop (1 us).
    assert simulate_time_s(ring, CollectiveSpec("all_gather", ("x",), 4e6, "ring")) == pytest.approx(3 * (1e-3 + 1e-6))


def test_a_layer_computes_what_one_device_computes():
    # NumPy runs the layout with real shards on 2x2 chips: a prefill of 3 positions, then two decode steps.
    uses = PRESETS["weight_stationary_2d"](("x", "y"))
    for sharded_logits, _, one_device_logits in passes(uses, torus(2, 2), batch=4):
        np.testing.assert_allclose(sharded_logits, one_device_logits, rtol=1e-9)


def test_a_scenario_is_a_model_on_a_machine_under_a_workload_in_a_layout():
    scenario = api.load("palm540b_decode_ws2d", "layout.overlap=none")
    assert (scenario.model.name, scenario.topology.name) == ("palm_540b", "tpu_v4_4x4x4")
    assert (scenario.workload.phase, scenario.layout.ffn) == ("decode", "weight_stationary_2d")
    simulated = api.simulate(scenario).report.simulated
    assert simulated.compute_s + simulated.exposed_communication_s <= simulated.step_s
    # Nothing overlaps and nothing queues here, so the closed form, which shares no code with the simulation, agrees.
    assert simulated.latency_s == pytest.approx(api.predict(scenario).detailed_latency_s, rel=1e-6)


def test_a_study_runs_a_scenario_at_many_points(tmp_path):
    sweep = "sweep={topology.link.latency: [0.5 us, 1 us, 2 us]}"
    code, errors = call("sweep", "palm540b_decode_ws2d", "--set", sweep, "--out", tmp_path, "--no-plots")
    assert (code, errors) == (0, "")
    (table,) = tmp_path.glob("*/sweep.csv")
    times_s = [float(row["latency_s"]) for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())]
    assert times_s == sorted(times_s)
    assert len(set(times_s)) == 3
