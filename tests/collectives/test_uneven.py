"""An all-to-all of a matrix of bytes, on every shipped machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.machines import full_mesh, switch, torus, two_sockets
from support.shipped_machines import machine, one_of_each_wiring

from sim.cli import main
from sim.collectives.graph.uneven import all_to_all
from sim.errors import InputError
from sim.specs import PerturbSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench import uneven
from sim.studies.bench.collective import CollectiveSpec
from sim.topology import Topology, build

MACHINES = [name for name in load.shipped("topology") if machine(name).chips <= 128]


def skewed(chips: int) -> np.ndarray:
    """Bytes that differ from pair to pair, some of them none."""
    matrix = np.random.default_rng(chips).lognormal(13, 1, (chips, chips))
    return np.where(np.arange(chips * chips).reshape(chips, chips) % 5 == 0, 0.0, matrix)


def uniform(chips: int, size: float) -> np.ndarray:
    return np.full((chips, chips), size)


def delivered(topology: Topology, matrix: np.ndarray) -> np.ndarray:
    """[chips, chips] bytes that the schedule's messages bring from each chip to each."""
    plan = all_to_all(topology, matrix / matrix.sum())
    at = {tuple(topology.coordinates(chip)): chip for chip in range(topology.chips)}
    arrived = np.zeros_like(matrix)
    last = plan.arrives(topology)
    for send in range(len(plan)):
        src, dst = (at[tuple(column[send].tolist())] for column in (plan.origin, plan.target))
        if last[send] and int(plan.dst[send]) == dst:
            arrived[src, dst] += plan.share[send] * matrix.sum()
    return arrived


@pytest.mark.parametrize("name", [name for name in MACHINES if machine(name).chips <= 32])
def test_every_byte_reaches_its_chip_and_no_other_does(name: str):
    topology = build(*load.machine(name))
    matrix = skewed(topology.chips)
    assert delivered(topology, matrix) == pytest.approx(matrix * (1 - np.eye(topology.chips)))


@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES))
def test_no_machine_is_faster_than_its_busiest_chip(name: str):
    topology = build(*load.machine(name))
    measured = uneven.run_matrix(topology, skewed(topology.chips))
    assert measured.time_s >= measured.bound_s * (1 - 1e-9)


@pytest.mark.parametrize("machine", [switch(8), full_mesh(5), two_sockets(), torus(4, 3)], ids=lambda m: m.name)
def test_equal_messages_are_the_even_all_to_all(machine: Topology):
    """By direct messages over the same routes; on an even ring those to the chip opposite take one way, not two."""
    axes = tuple(axis.name for axis in machine.axes)
    n = machine.chips
    measured = uneven.run_matrix(machine, uniform(n, 1e6))
    if machine.kind != "torus":
        even = bench.run_collective(machine, CollectiveSpec("all_to_all", axes, n * 1e6, "one_shot"))
        assert measured.time_s == pytest.approx(even.time_s, rel=1e-6)
    assert measured.size_bytes == pytest.approx((n - 1) * 1e6)


def test_one_message_takes_its_way():
    """1 MB over a port of 450 GB/s; over two hops of 45 GB/s, one after the other."""
    matrix = np.zeros((8, 8))
    matrix[1, 6] = 1e6
    assert uneven.run_matrix(switch(8), matrix).time_s == pytest.approx(1e6 / 450e9 + 1e-6)
    matrix = np.zeros((8, 8))
    matrix[0, 2] = 1e6
    assert uneven.run_matrix(torus(8), matrix).time_s == pytest.approx(2 * (1e6 / 45e9 + 1e-6))


def test_a_chip_that_receives_from_all_sets_the_time():
    """Incast: seven messages of 1 MB into one port, one after the other."""
    matrix = np.zeros((8, 8))
    matrix[:, 3] = 1e6
    measured = uneven.run_matrix(switch(8), matrix)
    assert measured.time_s == pytest.approx(7e6 / 450e9 + 1e-6)
    assert measured.time_s == pytest.approx(measured.bound_s)


def test_a_chip_that_is_late_delays_its_messages_alone():
    late = PerturbSpec.model_validate({"stragglers": [{"chips": [1], "delay": "1 ms"}]})
    matrix = np.zeros((4, 4))
    matrix[0, 3] = matrix[1, 2] = 1e6
    alone = uneven.run_matrix(switch(4), matrix).time_s
    assert uneven.run_matrix(switch(4), matrix, late).time_s == pytest.approx(alone + 1e-3)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("1,2\n3\n", r"row 2: must have as many columns as rows, 2, got 1; a row per sender"),
        ("1,x\n3,4\n", "row 1: "),
        ("1,-2\n3,4\n", "row 1: "),
        ("1,2 s\n3,4\n", "row 1: "),
        ("1,1e99 GiB\n3,4\n", "row 1: "),
        ("1,2\n3,4\n", r"--matrix: must have a row and a column per chip of dgx_h100, 8, got 2"),
        ("\n".join([",".join("0" * 8)] * 8), r"--matrix: must have bytes between different chips"),
        ("", "--matrix"),
    ],
)
def test_a_wrong_matrix_is_one_line(tmp_path: Path, text: str, rule: str):
    path = tmp_path / "matrix.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rule) as caught:
        uneven.run_matrix_file("dgx_h100", path, [])
    assert "\n" not in str(caught.value)


def test_no_file_is_one_line(tmp_path: Path):
    with pytest.raises(InputError, match="must be a CSV file that can be read"):
        uneven.read(tmp_path / "none.csv")


def command(monkeypatch: pytest.MonkeyPatch, *options: object) -> int:
    monkeypatch.setattr("sys.argv", ["sim", "collective", *map(str, options), "--topology", "dgx_h100"])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def test_the_command_reads_a_matrix(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "matrix.csv"
    path.write_text("\n".join(",".join(["1 MiB"] * 8) for _ in range(8)))
    assert command(monkeypatch, "all_to_all", "--matrix", path) == 0
    out = capsys.readouterr().out
    assert "# 56 messages of 1.00 MiB to 1.00 MiB" in out
    assert f"{7 * 2**20}" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("all_reduce", "--matrix", "m.csv"), "NAME with --matrix: must be all_to_all"),
        (("all_to_all", "--matrix", "m.csv", "--size", "1MiB"), "--size: is not supported with --matrix"),
        (("all_to_all", "--matrix", "m.csv", "--groups", "4x2"), "--groups: is not supported with --matrix"),
        (("all_to_all", "--matrix", "m.csv", "--algorithm", "one_shot"), "--algorithm: is not supported with --matrix"),
        (("all_to_all", "--matrix", "m.csv", "--consecutive"), "--consecutive: requires --groups"),
    ],
)
def test_options_that_do_not_go_together_are_refused(monkeypatch, capsys, options, message):
    assert command(monkeypatch, *options) == 2
    assert message in capsys.readouterr().err
