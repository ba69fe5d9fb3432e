"""An all-to-all of a matrix of bytes, on every shipped machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.machines import full_mesh, switch, torus, two_sockets
from support.shipped_machines import machine, one_of_each_wiring

from sim.cli import main
from sim.collectives import ON_TORUS
from sim.collectives.uneven import all_to_all
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
    """[chips, chips] bytes that come from each chip to each, passed on by chips that have been sent them.

    A send carries what pairs of chips of its box have to send each other, of one part and half. It must have arrived
    with the sends that it waits for, and be as large as it says.
    """
    plan, table = all_to_all(topology, matrix / matrix.sum()), matrix * (1 - np.eye(len(matrix)))
    at = np.array([topology.coordinates(chip) for chip in range(topology.chips)])
    last, arrived, ended = plan.arrives(topology), np.zeros_like(matrix), []
    for send in range(len(plan)):
        src, dst = (
            np.flatnonzero(((column[send] < 0) | (column[send] == at)).all(axis=1))
            for column in (plan.origin, plan.target)
        )
        carried = np.zeros_like(matrix)
        carried[np.ix_(src, dst)] = table[np.ix_(src, dst)] / plan.parts / (2 if plan.half[send] >= 0 else 1)
        assert plan.share[send] == pytest.approx(carried.sum() / matrix.sum())
        before = int(plan.follows[send])
        waits = [] if before >= 0 else plan.dependencies(send).tolist()
        held = ended[before].copy() if before >= 0 else sum((ended[each] for each in waits), np.zeros_like(matrix))
        if plan.own[send]:
            held[plan.src[send]] += table[plan.src[send]]
        assert (carried <= held * (1 + 1e-9)).all()
        ended.append(carried)
        if last[send]:
            arrived[:, plan.dst[send]] += carried[:, plan.dst[send]]
    return arrived


def algorithms(name: str) -> list[str]:
    """Settings of a machine: every all-to-all of a torus."""
    known = ON_TORUS["all_to_all"] if machine(name).kind == "torus" else ()
    return [f"collectives.all_to_all={each}" for each in known]


@pytest.mark.parametrize("name", [name for name in MACHINES if machine(name).chips <= 32])
def test_every_byte_reaches_its_chip_and_no_other_does(name: str):
    for setting in algorithms(name) or [""]:
        topology = build(*load.machine(name, [setting] if setting else []))
        matrix = skewed(topology.chips)
        assert delivered(topology, matrix) == pytest.approx(matrix * (1 - np.eye(topology.chips)))


@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES))
def test_no_machine_is_faster_than_its_busiest_chip(name: str):
    topology = build(*load.machine(name))
    measured = uneven.run_matrix(topology, skewed(topology.chips))
    assert measured.time_s >= measured.bound_s * (1 - 1e-9)


@pytest.mark.parametrize("machine", [switch(8), full_mesh(5), two_sockets()], ids=lambda m: m.name)
def test_equal_messages_are_the_even_all_to_all(machine: Topology):
    axes = tuple(axis.name for axis in machine.axes)
    n = machine.chips
    measured = uneven.run_matrix(machine, uniform(n, 1e6))
    even = bench.run_collective(machine, CollectiveSpec("all_to_all", axes, n * 1e6, "one_shot"))
    assert measured.time_s == pytest.approx(even.time_s, rel=1e-6)
    assert measured.size_bytes == pytest.approx((n - 1) * 1e6)


@pytest.mark.parametrize("name", [name for name in MACHINES if algorithms(name) and machine(name).chips <= 64])
def test_equal_messages_on_a_torus_are_its_all_to_all(name: str):
    """Also to the chip opposite on a ring: a half of the bytes each way round."""
    for setting in algorithms(name):
        topology = build(*load.machine(name, [setting]))
        even = CollectiveSpec("all_to_all", tuple(axis.name for axis in topology.axes), topology.chips * 1e5)
        measured = uneven.run_matrix(topology, uniform(topology.chips, 1e5))
        assert measured.time_s == bench.run_collective(topology, even).time_s


def test_bytes_to_the_chip_opposite_go_both_ways_round():
    """1 MB over two ways of four hops at 45 GB/s: a half each, passed on four times."""
    matrix = np.zeros((8, 8))
    matrix[1, 5] = 1e6
    assert uneven.run_matrix(torus(8), matrix).time_s == pytest.approx(4 * (0.5e6 / 45e9 + 1e-6))


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
