"""ASTRA-sim's files beside Chakra traces: dimensions, units and the command."""

import json
import subprocess
from pathlib import Path

import pytest

from sim import topology as machines
from sim.export import astra_sim
from sim.results import folder as outputs
from sim.simulate.run import run
from sim.specs import load
from sim.topology.graph import Topology


def machine(name: str, *settings: str) -> Topology:
    return machines.build(*load.machine(name, list(settings)))


def test_the_axis_that_varies_fastest_over_the_chips_is_the_first_dimension() -> None:
    """A torus of 2x4x4 has chips 0 and 1 side by side on z, whose size is the last here and the first there."""
    topology = machine("tpu_v4_2x4x4")
    found = astra_sim.dimensions(topology)
    assert [axis.size for axis in found] == [4, 4, 2]
    assert {axis.kind for axis in found} == {"Ring"}
    stride = 1
    for axis in found:
        link = next(link for link in topology.links if {link.src, link.dst} == {0, stride})
        assert axis.bandwidth == link.bandwidth
        stride *= axis.size


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dgx_h100", [("Switch", 8)]),
        ("dgx_h100_x2", [("Switch", 8), ("Switch", 2)]),
        ("mi300x", [("FullyConnected", 8)]),
        ("gb200_nvl72", [("Switch", 72)]),
    ],
)
def test_boxes_of_gpus_are_two_dimensions(name: str, expected: list[tuple[str, int]]) -> None:
    assert [(axis.kind, axis.size) for axis in astra_sim.dimensions(machine(name))] == expected


def test_a_message_takes_as_long_through_two_links_as_here() -> None:
    topology = machine("dgx_h100")
    (axis,) = astra_sim.dimensions(topology)
    route = [topology.links[link] for link in topology.route(0, 1)]
    assert 2 * axis.latency_s == pytest.approx(sum(link.latency_s for link in route))
    assert axis.bandwidth == min(link.bandwidth for link in route)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    outputs.export(run(load.scenario("palm540b_decode_ws2d", ["model.layers=1"])), folder, "chakra")
    return folder / "chakra"


def test_the_network_is_in_gib_and_nanoseconds(written: Path) -> None:
    topology = machine("tpu_v4_4x4x4")
    rows = dict(line.split("#")[0].split(": ", 1) for line in (written / "network.yml").read_text().splitlines())
    link = topology.links[0]
    assert rows["topology"].strip() == "[ Ring, Ring, Ring ]"
    assert json.loads(rows["npus_count"]) == [4, 4, 4]
    assert json.loads(rows["bandwidth"]) == pytest.approx([link.bandwidth / 2**30] * 3, rel=1e-6)
    assert json.loads(rows["latency"]) == pytest.approx([link.latency_s * 1e9] * 3)


def test_every_dimension_has_an_algorithm(written: Path) -> None:
    system = json.loads((written / "system.json").read_text())
    for kind in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"):
        assert system[f"{kind}-implementation"] == ["ring"] * 3
    assert json.loads((written / "logical_topology.json").read_text()) == {"logical-dims": ["4", "4", "4"]}
    assert json.loads((written / "remote_memory.json").read_text()) == {"memory-type": "NO_MEMORY_EXPANSION"}


def test_the_command_names_the_files_that_are_there(written: Path) -> None:
    shown = subprocess.run(
        [written / "run_astra_sim.sh"],
        env={"ASTRA_SIM": "echo", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    ).stdout
    options = dict(option.removeprefix("--").split("=", 1) for option in shown.split())
    prefix = options.pop("workload-configuration")
    assert Path(f"{prefix}.0.et").exists()
    assert set(options) == {
        *("comm-group-configuration", "system-configuration", "remote-memory-configuration", "network-configuration")
    }
    assert all(Path(path).exists() for path in options.values())


def test_a_memory_pool_is_the_remote_memory(tmp_path: Path) -> None:
    outputs.export(run(load.scenario("pmep_gpt3_host")), tmp_path, "chakra")
    memory = json.loads((tmp_path / "chakra" / "remote_memory.json").read_text())
    assert memory["memory-type"] == "PER_NPU_MEMORY_EXPANSION"
    assert memory["remote-mem-bw"] > 0


def test_what_astra_sim_lacks_is_said_of_the_machines_that_have_it() -> None:
    said = {name: " ".join(astra_sim.differences(machine(name))) for name in ("dgx_h100", "tpu_v5e_2x4")}
    assert "NVLS" in said["dgx_h100"]
    assert "collectives.all_reduce=ring" in said["dgx_h100"]
    assert "NVLS" not in said["tpu_v5e_2x4"]
    assert "without a wraparound" in said["tpu_v5e_2x4"]
