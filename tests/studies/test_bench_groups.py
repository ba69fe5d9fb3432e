"""Several groups of chips at once, on every shipped machine: every collective runs, and they share the links."""

from __future__ import annotations

import json

import pytest
from support.machines import switch, torus, two_sockets
from support.shipped_machines import machine as shipped_machine
from support.shipped_machines import one_of_each_wiring, wired_differently

from sim.cli import main
from sim.collectives import COLLECTIVES, algorithm_of, schedule
from sim.collectives.chunk_replay import replay
from sim.errors import InputError
from sim.specs import PerturbSpec, load
from sim.studies.bench import collective as bench
from sim.studies.bench import groups as grouped
from sim.studies.bench.collective import CollectiveSpec
from sim.studies.bench.groups import Grouping
from sim.topology.group import group_of

MACHINES = wired_differently(list(load.shipped("topology")))
SIZE = 2.0**22


def test_groups_take_every_so_manieth_chip_or_follow_each_other():
    assert Grouping.of("4x2").members(8) == [(0, 4), (1, 5), (2, 6), (3, 7)]
    assert Grouping.of("2x3", consecutive=True).members(8) == [(0, 1, 2), (3, 4, 5)]
    assert str(Grouping.of("2x4")) == "2 groups of 4 chips at once, every 2nd chip"
    assert str(Grouping.of("1x3", consecutive=True)) == "1 group of 3 chips at once, consecutive chips"


@pytest.mark.parametrize("text", ["", "4", "4x", "x2", "4x1", "0x2", "4x2x1", "-1x2", "axb"])
def test_what_is_no_grouping_is_refused(text: str):
    with pytest.raises(InputError, match=r"--groups: must be the number of groups and the chips of each"):
        Grouping.of(text)


def test_more_chips_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"--groups: must have at most as many chips as the machine, 8, got '4x3'"):
        Grouping.of("4x3").members(8)


@pytest.mark.parametrize("consecutive", [False, True], ids=["strided", "consecutive"])
@pytest.mark.parametrize("name", one_of_each_wiring(MACHINES))
def test_every_collective_runs_in_groups_on_every_machine(name: str, consecutive: bool):
    """Only a permute over several axes is refused, in words; nothing is below its bound, or faster than one group."""
    topology = shipped_machine(name)
    together, alone = (Grouping(count, 2, consecutive) for count in (2, 1))
    for collective in COLLECTIVES:
        measured = grouped.run_groups(topology, CollectiveSpec(collective, (), SIZE), together)
        assert measured.time_s >= measured.bound_s * (1 - 1e-9)
        if consecutive:  # the first group is the same chips
            one = grouped.run_groups(
                topology, CollectiveSpec(collective, (), SIZE, measured.algorithm.partition(" or ")[0]), alone
            )
            assert measured.time_s >= one.time_s * (1 - 1e-9)


@pytest.mark.parametrize("name", one_of_each_wiring(name for name in MACHINES if shipped_machine(name).chips >= 8))
def test_groups_of_four_carry_out_their_collectives(name: str):
    topology = shipped_machine(name)
    for collective in COLLECTIVES:
        for chips in (Grouping(2, 4).members(topology.chips)[1], Grouping(2, 4, True).members(topology.chips)[1]):
            part = group_of(topology, chips).machine
            axes = tuple(axis.name for axis in part.axes if axis.size > 1)
            if collective == "permute" and len(axes) > 1:
                with pytest.raises(InputError, match="a permute goes along one axis"):
                    schedule(part, collective, axes, None, SIZE)
            elif "nvls" not in algorithm_of(part, collective, None, SIZE):  # sums in the switch are told otherwise
                replay(schedule(part, collective, axes, None, SIZE), part)


def test_groups_that_share_a_link_take_turns_on_it():
    """Chips 0 and 2, and 1 and 3, exchange over the one link of 5 GB/s between two sockets: two messages each way."""
    machine = two_sockets()
    first = grouped.run_groups(
        machine, CollectiveSpec("sendrecv", (), SIZE), Grouping(1, 4)
    )  # 0 -> 1 -> 2 -> 3 -> 0: one each way
    both = grouped.run_groups(machine, CollectiveSpec("sendrecv", (), SIZE), Grouping(2, 2))
    assert both.time_s - first.time_s == pytest.approx(SIZE / 5e9, rel=1e-3)
    apart = grouped.run_groups(machine, CollectiveSpec("sendrecv", (), SIZE), Grouping(2, 2, consecutive=True))
    assert apart.time_s < both.time_s / 10


@pytest.mark.parametrize("collective", sorted(COLLECTIVES))
def test_groups_on_a_switch_do_not_meet(collective: str):
    machine = switch(8)
    times = {
        grouped.run_groups(machine, CollectiveSpec(collective, (), SIZE), Grouping(count, 2, each)).time_s
        for count in (1, 4)
        for each in (True, False)
    }
    assert len(times) == 1


@pytest.mark.parametrize("collective", sorted(COLLECTIVES))
def test_one_group_of_all_chips_is_the_collective_without_groups(collective: str):
    for machine in (switch(8), torus(4, 4), two_sockets()):
        axes = tuple(axis.name for axis in machine.axes)
        if collective == "permute" and len(axes) > 1:
            continue
        whole = bench.run_collective(machine, CollectiveSpec(collective, axes, SIZE))
        assert (
            grouped.run_groups(machine, CollectiveSpec(collective, (), SIZE), Grouping(1, machine.chips)).time_s
            == whole.time_s
        )


def test_groups_along_an_axis_are_the_groups_of_that_axis():
    """Consecutive chips of 4x4 are its rows, every fourth one its columns."""
    machine = torus(4, 4)
    for consecutive, axis in ((True, "y"), (False, "x")):
        rows = grouped.run_groups(machine, CollectiveSpec("all_reduce", (), SIZE), Grouping(4, 4, consecutive))
        assert rows.time_s == bench.run_collective(machine, CollectiveSpec("all_reduce", (axis,), SIZE)).time_s
        assert rows.error == pytest.approx(0, abs=1e-6)


def test_a_chip_that_is_late_holds_up_its_group():
    late = PerturbSpec.model_validate({"stragglers": [{"chips": [5], "delay": "1 ms"}]})
    machine, spec = switch(8), CollectiveSpec("all_gather", (), SIZE)
    on_time = grouped.run_groups(machine, spec, Grouping(4, 2)).time_s
    assert grouped.run_groups(machine, spec, Grouping(4, 2), late).time_s == pytest.approx(on_time + 1e-3)
    assert grouped.run_groups(machine, spec, Grouping(2, 2), late).time_s == on_time  # chips 0 to 3


def command(monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("sys.argv", ["sim", "collective", "all_reduce", "--topology", "dgx_h100", *options])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code or 0


def test_the_command_says_which_groups(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    assert command(monkeypatch, "--size", "1MiB", "--groups", "4x2") == 0
    assert "# 4 groups of 2 chips at once, every 4th chip" in capsys.readouterr().out
    assert command(monkeypatch, "--size", "1MiB", "--groups", "2x4", "--consecutive", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["group"], row["form"]) == (4, "NCCL's tuner")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--groups", "4x2", "--axes", "g"), "--axes: is not supported with --groups; leave one out"),
        (("--groups", "4x2", "--chunks", "2"), "--chunks: is not supported with --groups; leave one out"),
        (("--consecutive",), "--consecutive: requires --groups; such as --groups 4x2"),
        (("--groups", "4x4"), "--groups: must have at most as many chips as the machine, 8, got '4x4'"),
        (("--groups", "4x2", "--algorithm", "rng"), "--algorithm: no algorithm of all_reduce, got 'rng'"),
    ],
)
def test_options_that_do_not_go_together_are_refused(monkeypatch, capsys, options, message):
    assert command(monkeypatch, "--size", "1MiB", *options) == 2
    assert message in capsys.readouterr().err
