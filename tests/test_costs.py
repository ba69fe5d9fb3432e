"""A piece of a matmul costs what a matmul of its shape costs; reports say of an operation what its cost says."""

from pathlib import Path
from typing import get_args

import pytest
import yaml

from sim import load
from sim.collectives.loop import LoopForm
from sim.lower import lower
from sim.lowering.emitter import Emitter
from sim.partition import LAYOUTS
from sim.placement import machine

ROOT = Path(__file__).parent.parent
CHIPS = sorted(path.stem for path in (ROOT / "topologies" / "chips").glob("*.yaml"))
FORMS = get_args(LoopForm)
LOOPS = "layout.overlap=collective_matmul"
WORKLOADS = {
    "decode": {"phase": "decode", "batch": 64, "context": 128, "generate": 1},
    "one prompt": {"phase": "prefill", "batch": 1, "prompt": 1024},
    "prompts": {"phase": "prefill", "batch": 64, "prompt": 128},
}
LOOPED = [
    (layout, workload)
    for layout in LAYOUTS
    for workload in WORKLOADS
    if workload != "one prompt" or layout.startswith("weight_stationary")  # the others split the batch
]


def formats(chip):
    """A number format of two bytes that a chip multiplies, for weights and activations."""
    peak = yaml.safe_load((ROOT / "topologies" / "chips" / f"{chip}.yaml").read_text())["peak"]
    return dict.fromkeys(("weights", "activations"), "bf16" if "bf16" in peak else "fp16")


def torus(layout, *settings, workload="decode", chip="tpu_v4"):
    """One layer of PaLM 540B, all numbers of two bytes, on a 4x4x4 torus of any chip."""
    own = [
        f"topology.chip={chip}",
        "engine.layers=1",
        "layout.overlap=none",
        f"layout.ffn={layout}",
        f"workload={WORKLOADS[workload] | formats(chip)}",
    ]
    return load.scenario("palm540b_decode_ws2d", [*own, *settings])


def box(*settings, chip="h100_sxm"):
    """One layer of Llama-3 70B on 8 chips, a prefill."""
    own = [f"workload.{name}={dtype}" for name, dtype in formats(chip).items()]
    return load.scenario("llama3_70b_tp8_prefill", ["engine.layers=1", f"topology.chip={chip}", *own, *settings])


def launches(scenario, monkeypatch):
    """By name, (work, duration of chip 0 in ps) of every launch of a matmul."""
    found, compute = {}, Emitter.compute

    def seen(self, op, work, *rest):
        tasks = compute(self, op, work, *rest)
        if work.rows:
            found.setdefault(op, []).append((work, int(tasks[-1][0])))
        return tasks

    with monkeypatch.context() as patch:
        patch.setattr(Emitter, "compute", seen)
        program = lower(scenario, machine(scenario)).program
    for works in found.values():
        assert all(program.bytes[task] == work.bytes and program.flops[task] == work.flops for work, task in works)
    return {op: [(work, int(program.busy_ps[task])) for work, task in works] for op, works in found.items()}


def shape(work):
    """([r, k] x [k, c], values of a sum that it reads as well), of numbers of two bytes."""
    r, c = work.rows, work.columns
    k = work.flops / (2 * r * c)
    return r, k, c, work.bytes / 2 - (r * k + k * c + r * c)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("layout", "workload"), LOOPED)
def test_a_piece_of_a_loop_costs_what_a_matmul_of_its_shape_costs_alone(layout, workload, form, monkeypatch):
    """It reads r k and k c values and writes r c; what it reads besides are sums, of r c values each, to add to.

    Around a ring of 4 an all-gather's pieces leave one sum of the whole output, and of a reduce-scatter's four chunks
    three have arrived from other chips.
    """
    collectives = f"collectives.collective_matmul={form}"
    whole = launches(torus(layout, workload=workload), monkeypatch)
    cut = launches(torus(layout, LOOPS, collectives, workload=workload), monkeypatch)
    assert cut.keys() == whole.keys()
    looped = [op for op in whole if len(cut[op]) > len(whole[op])]
    assert bool(looped) == (layout != "weight_stationary_1d")  # where nothing is summed or gathered around one axis
    for op in looped:
        ((only, _),) = whole[op]
        values = only.rows * only.columns
        written = read = flops = 0
        for i, (work, _) in enumerate(cut[op]):
            r, k, c, sums = shape(work)
            assert k == int(k)
            assert sums >= 0
            assert i or sums == 0
            assert sums % (r * c / 2) == 0
            written, read, flops = written + r * c, read + sums, flops + work.flops
        assert flops == only.flops
        if written == values:  # cut by rows or columns
            assert read in (0, values * 3 / 4)
        else:
            assert written - read == values


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_pieces_of_a_loop_take_no_less_than_the_whole(layout, chip, monkeypatch):
    """They read what they share more than once, and fill no more of their tiles."""
    whole = launches(torus(layout, workload="prompts", chip=chip), monkeypatch)
    cut = launches(torus(layout, LOOPS, workload="prompts", chip=chip), monkeypatch)
    for op, works in cut.items():
        ((only, whole_ps),) = whole[op]
        assert sum(ps for _, ps in works) >= whole_ps
        if len(works) > 1:
            assert sum(work.bytes for work, _ in works) > only.bytes


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_a_chunk_of_a_matmul_costs_what_a_matmul_of_its_columns_costs_alone(chunks, chip, monkeypatch):
    """Every chunk reads the whole input; 8192 columns in 3 or 7 chunks are not all of one width."""
    plain, chunked = ("layout.overlap=none",), ("layout.overlap=chunked_matmul", f"layout.chunks={chunks}")
    whole, cut = (launches(box(*settings, chip=chip), monkeypatch) for settings in (plain, chunked))
    pieces = [op for op in cut if len(cut[op]) == chunks]
    assert pieces == ["o", "wo"]
    for op in pieces:
        ((only, whole_ps),) = whole[op]
        r, k, c, _ = shape(only)
        shapes = [shape(work) for work, _ in cut[op]]
        assert [(own[0], own[1], own[3]) for own in shapes] == [(r, k, 0)] * chunks
        widths = [own[2] for own in shapes]
        assert sum(widths) == c
        assert max(widths) - min(widths) <= 1
        assert sum(ps for _, ps in cut[op]) > whole_ps
        for width, (_, ps) in zip(widths, cut[op], strict=True):  # equal shapes, equal times
            assert {ps} == {other for w, (_, other) in zip(widths, cut[op], strict=True) if w == width}


def test_a_chunk_pays_for_the_whole_of_its_last_tile(monkeypatch):
    """With tiles of 128 columns, 7 chunks of 8192 columns are 7 times 1171 or 1170: 10 tiles each, 70 instead of 64."""
    tiles = "topology.chip.matmul_tiles={value: {rows: 128, columns: 128, at_once: 1, split: 1}, source: made up}"
    many = "topology.chip.hbm_bandwidth=1000 TB/s", "topology.chip.op_overhead=0 s", tiles
    whole = launches(box("layout.overlap=none", *many), monkeypatch)["wo"]
    cut = launches(box("layout.overlap=chunked_matmul", "layout.chunks=7", *many), monkeypatch)["wo"]
    assert sum(ps for _, ps in cut) / whole[0][1] == pytest.approx(70 / 64, rel=1e-3)
