"""`sim collective`: one collective measured as nccl-tests does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from support.files import write
from support.machines import torus

from sim import cli
from sim.collectives import ON_ROUTES, ON_TORUS
from sim.errors import InputError
from sim.report.collective_result import CollectiveResult
from sim.specs import load
from sim.studies.bench import collective as bench
from sim.studies.bench.collective import CollectiveSpec
from sim.studies.bench.groups import run_sizes
from sim.studies.validate.cases import published_times
from sim.topology import build

MACHINE = "topology.yaml"
"""2x2 chips with wraps, 1 GB/s a link, 1 us a hop."""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path())


@pytest.fixture
def collective(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["sim", "collective", *arguments, "--topology", MACHINE])
        code: object = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code
        return int(str(code or 0)), *capsys.readouterr()

    return call


@pytest.fixture
def sim_collective(collective, monkeypatch: pytest.MonkeyPatch):
    """`sim collective` on a machine of its own."""

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(f"{__name__}.MACHINE", arguments[arguments.index("--topology") + 1])
        return collective(*arguments)

    return call


def test_a_ring_all_gather_takes_its_textbook_time(collective):
    # (K-1) steps of V/K bytes over one link: V/2 / 1 GB/s + 1 us, K = 2.
    code, out, _ = collective("all_gather", "--axes", "x", "--size", "2 MB", "--algorithm", "ring", "--json")
    (row,) = json.loads(out)
    assert code == 0
    assert row["time_s"] == pytest.approx(1e-3 + 1e-6, rel=1e-9)
    assert row["closed_form_s"] == pytest.approx(row["time_s"], rel=1e-9)
    assert row["algbw"] == pytest.approx(2e6 / row["time_s"])
    assert row["busbw"] == pytest.approx(row["algbw"] / 2)
    assert row["bound_s"] <= row["time_s"]
    assert (row["group"], row["size_bytes"], row["algorithm"]) == (2, 2e6, "ring")


def test_a_figure_shows_the_time_of_small_sizes_beside_the_bandwidth_of_large_ones():
    from sim.plots import busbw

    rows = run_sizes(MACHINE, CollectiveSpec("all_reduce", (), 0.0), [1e3, 1e6], [])
    times, rates = busbw.draw(rows, "square", measured=[(1e3, 5e-6)]).axes
    assert times.get_yscale() == "log"
    assert times.lines[0].get_ydata().tolist() == pytest.approx([1e6 * row.time_s for row in rows])
    assert rates.lines[0].get_ydata().tolist() == pytest.approx([row.busbw / 1e9 for row in rows])
    assert [text.get_text() for text in times.get_legend().get_texts()] == ["simulated", "closed form", "measured"]


def test_the_table_has_a_line_per_size_under_its_columns(collective):
    code, out, _ = collective("all_reduce", "--min", "1KiB", "--max", "16KiB", "--factor", "4")
    heading, left_out, names, units, *rows = out.splitlines()
    assert code == 0
    assert left_out == "# memory traffic of sums is not modelled"
    assert heading == "# all_reduce, algorithm multi_axis, groups of 4 chips"
    assert names.split() == ["#", "size", "time", "algbw", "busbw", "closed", "form", "error", "bound"]
    assert units.split() == ["#", "(B)", "(us)", "(GB/s)", "(GB/s)", "(us)", "(%)", "(us)"]
    assert [row.split()[0] for row in rows] == ["1024", "4096", "16384"]
    assert {len(line) for line in (names, units, *rows)} == {len(names)}


@pytest.mark.parametrize(
    ("arguments", "sizes"),
    [
        (("8 B", "", "", 2), [8]),
        (("64MiB", "", "", 2), [64 * 2**20]),
        (("", "1 kB", "10 kB", 2), [1e3, 2e3, 4e3, 8e3]),
        (("", "1 kB", "1 kB", 10), [1e3]),
        (("8G", "", "", 2), [8 * 2**30]),  # letters are binary, as in nccl-tests
        (("", "1k", "2K", 2), [2**10, 2**11]),
        (("", "8", "64 B", 2), [8, 16, 32, 64]),  # whole numbers are bytes, as nccl-tests takes them
    ],
)
def test_sizes(arguments, sizes):
    assert bench.parse_sizes(*arguments) == sizes


def test_the_table_says_how_sizes_without_a_unit_were_read(collective):
    _, out, _ = collective("all_reduce", "--min", "1M", "--max", "1 MiB")
    assert "# 1M is 1.00 MiB, as in nccl-tests" in out.splitlines()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("8.5", "", "", 2), "--size: must be a number with a unit such as '32 GiB', got '8.5'"),
        (("0 B", "", "", 2), "--size: must be from 1 B to 1024.00 TiB, got '0 B'"),
        (("-1 MiB", "", "", 2), "--size: must be from 1 B to 1024.00 TiB, got '-1 MiB'"),
        (("1e30 B", "", "", 2), "--size: must be from 1 B to 1024.00 TiB, got '1e30 B'"),
        (("", "2 MiB", "1 MiB", 2), "--min: must be at most --max, got '2 MiB'"),
        (("", "", "", 2), "requires either --size, or --min and --max; such as --size 64MiB"),
        (("", "1 MiB", "", 2), "requires either --size, or --min and --max; such as --size 64MiB"),
        (("1 MiB", "", "1 MiB", 2), "requires either --size, or --min and --max; such as --size 64MiB"),
    ],
)
def test_sizes_that_make_no_sense(arguments, message):
    with pytest.raises(InputError) as caught:
        bench.parse_sizes(*arguments)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("allgather",), "unknown collective, got 'allgather'; did you mean 'all_gather'?"),
        (
            ("all_gather", "--algorithm", "rng"),
            "--algorithm: no algorithm of all_gather, got 'rng'; did you mean 'ring'?",
        ),
        (("all_gather", "--axes", "z"), "--axes: must be axes of square, each once, got 'z'; choose from x, y"),
        (("all_gather", "--axes", "xx"), "--axes: must be axes of square, each once, got 'xx'; choose from x, y"),
        (("permute",), "a permute goes along one axis, got 'xy'; name one axis"),
        (
            ("all_gather", "--set", "link.bandwidth=1"),
            "--set link.bandwidth: must be a number with a unit such as '45 GB/s', got 1",
        ),
        (
            ("all_gather", "--set", "axes={x: {size: 1, wrap: false}}"),
            "--axes: must give a group of at least two chips, got 'x'",
        ),
        (
            ("all_gather", "--set", "link.bandwidth=1e-9 bit/s"),
            "topology.yaml: exceeds the clock of the simulation, 9.2e+06 s; check sizes and rates",
        ),
    ],
)
def test_options_that_fit_nothing_are_named(collective, arguments, message):
    code, out, err = collective(*arguments, "--size", "1 MiB")
    assert (code, out, err) == (2, "", f"error: {message}\n")


SWITCH = {"name": "box", "kind": "switch", "chips": 8, "chip": "chip.yaml", "link": "link.yaml"}
GRAPH = {
    "name": "pair",
    "kind": "graph",
    "chip": "chip.yaml",
    "nodes": {"a": "chip", "b": "chip"},
    "link_types": {"wire": "link.yaml"},
    "links": [{"between": ["a", "b"], "link": "wire", "count": 2}],
}


def test_an_all_reduce_on_a_switch_takes_its_textbook_time(collective):
    # A ring by default, 14 steps of 1 MB at 1 GB/s and 1 us; 7 ms in and out of every port for each half of two_shot.
    write(Path(), {"topology": SWITCH})
    expected = {(): 14e-3 + 14e-6, ("--algorithm", "two_shot"): 14e-3 + 2e-6}
    for options, time_s in expected.items():
        _, out, _ = collective("all_reduce", "--size", "8 MB", "--json", *options)
        (row,) = json.loads(out)
        assert row["time_s"] == row["closed_form_s"] == pytest.approx(time_s, rel=1e-9)
        assert row["bound_s"] == pytest.approx(14e-3 + 1e-6)
        assert row["group"] == 8


def test_a_graph_has_a_bound_and_no_closed_form(collective):
    # Half of the array each way, twice, half of it over each of two links: two rings. The bound is the same.
    write(Path(), {"topology": GRAPH})
    _, out, _ = collective("all_reduce", "--size", "2 MB", "--json")
    (row,) = json.loads(out)
    assert row["closed_form_s"] is None
    assert row["time_s"] == pytest.approx(1e-3 + 2e-6)
    assert row["bound_s"] == pytest.approx(1e-3 + 1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--algorithm", "line"),
            "topology box: the algorithm 'line' of all_gather does not run on a switch; "
            "choose from ring, one_shot, halving_doubling",
        ),
        (
            ("--axes", "x"),
            "--axes: must be axes of box, each once, got 'x'; choose from g; "
            "--set mesh='{box: boxes, gpu: 8}' names others",
        ),
        (
            ("--algorithm", "halving_doubling", "--set", "chips=6"),
            "box: halving_doubling needs a group of a power of two chips, got 6",
        ),
        (("--set", "chips=1"), "--axes: must give a group of at least two chips, got 'g'"),
    ],
)
def test_what_a_switch_cannot_do_is_named(collective, options, message):
    write(Path(), {"topology": SWITCH})
    code, out, err = collective("all_gather", "--size", "1 MiB", *options)
    assert (code, out, err) == (2, "", f"error: {message}\n")


@pytest.mark.parametrize(
    ("topology", "mesh", "axes", "alone", "its_axes"),
    [
        ("dgx_h100_x2", "{box: boxes, gpu: 8}", "gpu", "dgx_h100", "g"),
        ("dgx_h100_x2", "{box: boxes, gpu: 8}", "box,gpu", "dgx_h100_x2", "g"),
        ("tpu_v4_4x4x4", "{x: x, yz: [y, z]}", "yz", "tpu_v4_4x4x4", "yz"),
        ("tpu_v4_4x4x4", "{x: x, yz: [y, z]}", "yz", "tpu_v4_4x4x4", "y,z"),
    ],
)
def test_axes_of_a_mesh_are_groups(topology, mesh, axes, alone, its_axes, monkeypatch, capsys):
    def run(*arguments: str) -> float:
        monkeypatch.setattr("sys.argv", ["sim", "collective", "all_reduce", *arguments, "--size", "64MiB", "--json"])
        with pytest.raises(SystemExit):
            cli.main()
        return float(json.loads(capsys.readouterr().out)[0]["time_s"])

    in_mesh = run("--topology", topology, "--set", f"mesh={mesh}", "--axes", axes)
    assert in_mesh == pytest.approx(run("--topology", alone, "--axes", its_axes), rel=1e-9)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ("{a: 3, b: 4}", "must have a product of at most the machine's 8 chips, got 12"),
        ("{a: [x, y]}", "must be a number of chips, 'boxes' or 'racks' on a switch, got ['x', 'y']"),
    ],
)
def test_a_mesh_that_does_not_fit_is_named(collective, mesh, message):
    write(Path(), {"topology": SWITCH})
    code, out, err = collective("all_gather", "--size", "1 MiB", "--set", f"mesh={mesh}")
    assert (code, out) == (2, "")
    assert message in err


# --- NCCL ------------------------------------------------------------------------------------------------------------


def test_a_sweep_draws_the_same_figure_every_time_and_one_size_none(collective):
    sweep = ("all_reduce", "--min", "1KiB", "--max", "16KiB")
    for folder in ("one", "two"):
        code, _, err = collective(*sweep, "--out", folder)
        assert (code, err) == (0, f"figure in {folder}/square_all_reduce.png\n")
    assert Path("one/square_all_reduce.png").read_bytes() == Path("two/square_all_reduce.png").read_bytes()
    assert collective("all_reduce", "--size", "1KiB", "--out", "three")[2] == ""
    assert collective(*sweep, "--no-plots", "--out", "three")[2] == ""
    assert not Path("three").exists()


def test_a_box_with_nccl_names_what_is_chosen_at_each_size(sim_collective):
    _, out, _ = sim_collective("all_reduce", "--topology", "dgx_h100", "--min", "8", "--max", "16 GiB", "--no-plots")
    _, chosen, _, names, _, *rows = out.splitlines()
    assert chosen == "# NCCL's tuner chose the algorithm, by its predictions; another may be faster"
    assert names.split()[-1] == "algorithm"
    assert [row.split()[-1] for row in rows] == ["ring_ll"] * 18 + ["nvls"] * 14  # 8 B to 1 MiB, 2 MiB to 16 GiB


def test_part_of_a_box_runs_rings(sim_collective):
    _, out, _ = sim_collective("all_reduce", "--topology", "dgx_h100", "--size", "8 GiB", "--set", "chips=4", "--json")
    (row,) = json.loads(out)
    assert (row["algorithm"], row["group"], row["form"]) == ("ring_simple", 4, "NCCL's tuner")
    assert row["busbw"] == pytest.approx(363.3e9, rel=0.05)  # measured on four GPUs of an HGX H200


def test_a_ring_says_what_it_crosses(sim_collective):
    options = ("--size", "1 MiB", "--algorithm", "ring")
    bridged = sim_collective("all_reduce", "--topology", "a100_pcie_bridges", *options)[1].splitlines()
    pairs = "gpu1->gpu2 gpu3->gpu4 gpu5->gpu6 gpu7->gpu0"
    assert bridged[1] == f"# 1 ring of 10 GB/s, traffic crosses PCI Express: {pairs}"
    meshed = sim_collective("all_reduce", "--topology", "dgx1_v100", *options)[1].splitlines()
    assert meshed[1] == "# 6 rings of 20 GB/s"


@pytest.mark.release
def test_measured_points_are_those_of_the_machine_and_algorithm():
    assert len(published_times("dgx_h100", "all_reduce", 8)) == 84
    assert published_times("hgx_h200", "all_reduce", 5, "ring") == [(2**33, pytest.approx(37716.508e-6))]
    assert published_times("dgx_h100", "reduce_scatter", 8) == []
    assert published_times("dgx_h100_x2", "all_reduce", 16) == []  # rows of other boxes run on it with other links


def test_one_chip_stands_for_all_in_chunks_too():
    """16 collectives at once on one chip have the time of all chips."""
    machine = torus(4, 4, 2)
    whole = replace(machine, is_vertex_transitive=False)
    for chunks in (1, 3, 16):
        times = [
            bench.simulate_time_s(m, CollectiveSpec("all_reduce", ("x", "y", "z"), 3e6, chunks=chunks))
            for m in (machine, whole)
        ]
        assert times[0] == times[1]


def test_chunks_have_no_closed_form_and_keep_the_bound():
    (row,) = run_sizes("tpu_v4_4x4x4", CollectiveSpec("all_reduce", (), 0.0, chunks=16), [2.0**26], [])
    assert row.closed_form_s is None
    assert row.time_s >= row.bound_s


# --- what is not as the machine's file says --------------------------------------------------------------------------

RING = CollectiveSpec("all_gather", ("x",), 4e6, "ring")
"""All-gather of 4 MB around 4 chips: every message is 1 MB."""
FREE = ["stack=ideal", "link.latency=1 us", "link.bandwidth=1 GB/s", "link.efficiency=100 %"]
STEP_S, LATENCY_S = 1e-3, 1e-6


def around(*perturb: str) -> CollectiveResult:
    (row,) = run_sizes("tpu_v4_4x4x4", RING, [RING.size_bytes], [*FREE, *perturb])
    return row


def test_a_chip_that_enters_late_holds_up_a_ring_by_as_much():
    """Its own part still goes around: 3 steps from when it enters; all else has come by then."""
    row = around("perturb={stragglers: [{chips: [5], delay: 7 ms}]}")
    assert row.time_s == pytest.approx(7e-3 + 3 * (STEP_S + LATENCY_S), abs=1e-12)
    assert row.closed_form_s == pytest.approx(3 * (STEP_S + LATENCY_S), abs=1e-12)


def test_a_slow_link_sets_the_pace_of_a_ring():
    """Three messages go over it one after the other, each in twice the time; the last is then where it belongs."""
    row = around("perturb.slow_links=[{links: ['0:x+'], factor: 2}]")
    assert row.time_s == pytest.approx(3 * 2 * STEP_S + LATENCY_S, abs=1e-12)
    assert row.notes[0].startswith("perturbed: the closed form ignores the perturbation")


def test_a_ring_without_a_link_is_a_line_on_which_data_goes_both_ways():
    """On a line of 4 the ends are 3 hops apart, and an inner link takes at most 3 messages in each direction."""
    row = around("perturb.failed_links=['0:x+']", "perturb.seed=1")
    assert row.time_s >= 3 * (STEP_S + LATENCY_S)
    assert "lines that end there" in row.notes[1]


def test_of_several_seeds_the_table_has_the_median_and_the_ends():
    jitter = "perturb={jitter: {links: 10 %}, repeats: 5}"
    row, *others = around(jitter), *(around(f"perturb={{jitter: {{links: 10 %}}, seed: {i}}}") for i in range(5))
    times = sorted(other.time_s for other in others)
    assert row.time_s == times[2]
    assert row.notes[1] == f"median of 5 seeds, from {times[0] * 1e6:.3f} to {times[4] * 1e6:.3f} us"
    assert row.notes[1] in bench.format_table([row])
    assert 3 * (STEP_S + LATENCY_S) < times[0] < times[4] <= 3 * (1.1 * STEP_S + LATENCY_S)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("perturb={stragglers: [{chips: [5], factor: 2}]}", "must have a delay only; give each a delay alone"),
        ("perturb={stragglers: [{chips: [64], delay: 1 us}]}", "those are 0 to 63, got 64"),
        ("perturb.slow_link=[]", "unknown key 'slow_link'; did you mean 'slow_links'?"),
        ("perturb.failed_links=['0:x']", "no link of that name, got '0:x'; did you mean '0:x"),
    ],
)
def test_what_cannot_be_perturbed_is_one_clear_line(setting: str, message: str):
    with pytest.raises(InputError) as caught:
        around(setting)
    assert message in str(caught.value)


# --- an algorithm from outside ---------------------------------------------------------------------------------------


def _part(make, share: float):
    """An algorithm whose messages carry a share of the data that they should."""

    def algorithm(topology, axes):
        plan = make(topology, axes)
        return replace(plan, share=plan.share * share)

    return algorithm


@pytest.mark.parametrize("name", ["all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast"])
@pytest.mark.parametrize("replayed", [True, False])
def test_an_algorithm_that_moves_too_little_is_an_error(name: str, replayed: bool, sim_collective, monkeypatch):
    """Its chunks are replayed when it is first used; were they not, its time would be below the bound."""
    if not replayed:
        monkeypatch.setattr("sim.collectives.chunk_replay.replay", lambda *_: None)
    for on, machine in ((ON_TORUS, "tpu_v4_4x4x4"), (ON_ROUTES, "mi300x")):
        first = next(iter(on[name]))
        monkeypatch.setitem(on[name], "ours", _part(on[name][first], 1 / 100))
        options = ("--topology", machine, "--size", "1GiB", "--algorithm", "ours")
        for more in ((), ("--chunks", "4"), ("--set", "perturb.jitter={links: 5 %}")):
            code, out, err = sim_collective(name, *options, *more)
            assert (code, out) == (2, "")
            if replayed:
                assert f"must carry out {name}: send 0 carries" in err
            else:
                assert "must take at least the bound" in err
                assert "it moves less data than the collective needs" in err


@pytest.mark.parametrize("size", [1.0, 3.0, 1000.0])
@pytest.mark.parametrize("name", ["dgx_h100", "hgx_b200", "tpu_v4_2x2x2", "mi300x"])
def test_no_time_is_zero_or_below_the_bound_where_links_take_picoseconds(name, size):
    """A byte takes less than a picosecond of a fast link without latency, and holds it for a whole one."""
    spec = load.topology_spec(name)
    links = ["link"] if spec.kind != "graph" else [f"link_types.{kind}" for kind in spec.link_types]
    settings = [f"{link}.{field}" for link in links for field in ("latency=0 s", "bandwidth=100 TB/s")]
    topology = build(*load.machine(name, [*settings, "stack.collective_overhead=0 s"]))
    axes = tuple(axis.name for axis in topology.axes)
    for collective in ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast"):
        direct = topology.kind != "torus" and collective != "broadcast"
        for algorithm in (None, "one_shot") if direct else (None,):
            found = bench.run_collective(topology, CollectiveSpec(collective, axes, size, algorithm))
            assert found.time_s > 0
            assert found.time_s >= found.bound_s
