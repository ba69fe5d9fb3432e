"""The messages of dispatch and combine carry the rows of chosen experts, and no machine is faster than its links."""

import csv
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from support.machines import CHIP, switch, torus
from support.shipped_machines import machine, one_of_each_wiring

from sim.collectives.exchange import ExchangeSpec
from sim.collectives.exchange import exchange as exchange_rows
from sim.lowering.exchange import TokenExchange
from sim.lowering.routing import Routing, Split, route
from sim.program import Kind, Program
from sim.specs import GraphSpec, StackSpec, load
from sim.specs.experts import LOADS, ExpertsLayout, ExpertsSpec, RoutingSpec
from sim.studies.bench import exchange
from sim.studies.bench.exchange import ExchangeCase, program, run_exchange
from sim.topology import Topology, build

EXPERTS, TOKENS, D_MODEL = ExpertsSpec(count=16, top_k=3, d_ff=8), 5, 4
ROW = 2 * D_MODEL
STACK = StackSpec(name="plain")


def two_boxes(chips: int = 4) -> Topology:
    """Two boxes of chips on a switch at 400 GB/s, with an adapter of 50 GB/s for every chip."""
    port = {"name": "port", "bandwidth": "400 GB/s", "latency": "1 us"}
    adapter = {"name": "adapter", "bandwidth": "50 GB/s", "latency": "2 us", "medium": "net"}
    box = {"name": "box", "kind": "switch", "chip": CHIP, "chips": chips, "link": port}
    boxes = {"count": 2, "of": box, "rails": {"link": adapter}}
    return build(GraphSpec.model_validate({"name": "two_boxes", "kind": "graph", "chip": CHIP, "boxes": boxes}))


def case(way: str = "dispatch", routing: RoutingSpec | None = None, **layout: object) -> ExchangeCase:
    placed = ExpertsLayout.model_validate(layout)
    return ExchangeCase(way, TOKENS, D_MODEL, "bf16", EXPERTS, routing or RoutingSpec(), placed)  # type: ignore[arg-type]


@pytest.fixture
def chosen(tmp_path: Path) -> tuple[RoutingSpec, list[list[int]]]:
    """A trace of 8 chips' tokens, and its lines; few tokens choose the last experts."""
    random = np.random.default_rng(7)
    popularity = np.linspace(3, 0.1, EXPERTS.count)
    lines = [
        random.choice(EXPERTS.count, EXPERTS.top_k, replace=False, p=popularity / popularity.sum()).tolist()
        for _ in range(8 * TOKENS)
    ]
    path = tmp_path / "trace.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return RoutingSpec(trace=str(path)), lines


def rows_between(lines: list[list[int]], *, once: bool) -> np.ndarray:
    """[chips, chips] rows from each chip to each of eight with two experts each, token by token."""
    rows = np.zeros((8, 8))
    for token, experts in enumerate(lines):
        chips = [expert // 2 for expert in experts]
        for chip in set(chips) if once else chips:
            rows[token // TOKENS, chip] += 1
    return rows * (1 - np.eye(8))


def carried(tasks: Program) -> np.ndarray:
    """[chips, chips] bytes of the messages from each chip to each."""
    first = (tasks.kind == Kind.SEND) & (tasks.follows < 0)
    sent = np.zeros((8, 8))
    np.add.at(sent, (tasks.chip[first], tasks.peer[first]), tasks.bytes[first])
    return sent


@pytest.mark.parametrize("way", ["dispatch", "combine"])
@pytest.mark.parametrize("scheme", ["per_expert", "per_rank"])
@pytest.mark.parametrize("topology", [switch(8), two_boxes()], ids=lambda topology: topology.name)
def test_messages_carry_what_the_tokens_choose(topology, scheme, way, chosen):
    routing, lines = chosen
    rows = rows_between(lines, once=scheme == "per_rank")
    sent = carried(program(topology, STACK, case(way, routing, dispatch=scheme)))
    assert sent == pytest.approx(ROW * (rows if way == "dispatch" else rows.T))


def test_layers_with_equal_rows_share_one_schedule():
    """And with other rows, or the same the other way, they have one of their own."""
    machine, spread = two_boxes(), np.arange(64.0).reshape(8, 8)
    axes = tuple(axis.name for axis in machine.mesh)
    plans = [
        exchange_rows(machine, axes, ExchangeSpec((rows.copy(),), (None,)), way)
        for way in ("dispatch", "combine")
        for rows in (spread, spread, spread.T)
    ]
    assert plans[0] is plans[1]
    assert plans[3] is plans[4]
    assert len({id(plan) for plan in plans}) == 4


@pytest.mark.parametrize("way", ["dispatch", "combine"])
def test_rows_cross_to_a_box_once_and_are_forwarded_there(way, chosen):
    """To the other box goes each token with an expert there, to the chip of the sender's place, which forwards it."""
    routing, lines = chosen
    rows = rows_between(lines, once=True)
    expected = np.zeros((8, 8))
    for chip in range(8):
        near = range(chip // 4 * 4, chip // 4 * 4 + 4)
        proxy = (chip + 4) % 8
        far = [each for each in range(8) if each not in near]
        mine = lines[chip * TOKENS : (chip + 1) * TOKENS]
        expected[chip, proxy] += sum(any(expert // 2 in far for expert in experts) for experts in mine)
        for dst in range(8):
            if dst != chip and dst in near:
                expected[chip, dst] += rows[chip, dst]
            elif dst != proxy and dst in far:
                expected[proxy, dst] += rows[chip, dst]
    sent = carried(program(two_boxes(), STACK, case(way, routing, dispatch="per_box")))
    assert sent == pytest.approx(ROW * (expected if way == "dispatch" else expected.T))


@pytest.mark.parametrize("way", ["dispatch", "combine"])
@pytest.mark.parametrize("axes", ["at_once", "one_by_one"])
def test_links_of_a_torus_carry_every_row_over_a_shortest_way(chosen, axes, way):
    """What enters a chip and does not leave it is what it receives; all hops together are rows times distances."""
    routing, lines = chosen
    topology = torus(2, 4)
    rows = rows_between(lines, once=True)
    rows = rows if way == "dispatch" else rows.T
    stack = StackSpec(name="plain", collective_axes=axes)
    tasks = program(topology, stack, case(way, routing, dispatch="per_rank"))
    sends = tasks.kind == Kind.SEND
    links = [topology.links[link] for link in (tasks.resource[sends] - topology.chips).tolist()]
    kept = np.zeros(8)
    np.add.at(kept, [link.dst for link in links], tasks.bytes[sends])
    np.subtract.at(kept, [link.src for link in links], tasks.bytes[sends])
    assert kept == pytest.approx(ROW * (rows.sum(axis=0) - rows.sum(axis=1)), abs=1e-6)
    hops = np.array([[len(topology.route(a, b)) if a != b else 0 for b in range(8)] for a in range(8)])
    assert tasks.bytes[sends].sum() == pytest.approx(ROW * (rows * hops).sum())


@pytest.mark.parametrize("way", ["dispatch", "combine"])
@pytest.mark.parametrize("scheme", ["per_expert", "per_rank", "per_box"])
@pytest.mark.parametrize("load_shape", ["uniform", "perfect_router", "zipf", "hot_rank", "ragged_sources"])
def test_no_exchange_is_faster_than_its_links(load_shape, scheme, way):
    routing = RoutingSpec.model_validate({"load": load_shape})
    for topology in (switch(8), two_boxes(), torus(2, 4)):
        result = run_exchange(topology, STACK, case(way, routing, dispatch=scheme))
        assert result.time_s >= result.bound_s * (1 - 1e-9)


SMALL = [name for name in load.shipped("topology") if 1 < machine(name).chips <= 64]


@pytest.mark.parametrize("way", ["dispatch", "combine"])
@pytest.mark.parametrize("axes", ["at_once", "one_by_one"])
@pytest.mark.parametrize("name", [name for name in SMALL if machine(name).kind == "torus"])
def test_equal_rows_given_as_a_matrix_take_the_time_of_the_even_exchange(name, axes, way, monkeypatch):
    topology = build(*load.machine(name, [f"stack.collective_axes={axes}"]))
    stack = StackSpec(name="plain", collective_axes=axes)
    experts = ExpertsSpec(count=2 * topology.chips, top_k=2, d_ff=8)
    of_all = ExchangeCase(way, 256, 1024, "bf16", experts, RoutingSpec(), ExpertsLayout(dispatch="per_expert"))
    even = run_exchange(topology, stack, of_all)
    monkeypatch.setattr(exchange, "route", lambda *inputs: replace(route(*inputs), even=False))
    assert run_exchange(topology, stack, of_all).time_s == even.time_s


def test_rows_go_along_one_axis_after_the_other():
    """1,000 rows of 1 KiB between opposite corners of 2x2 chips, a hop in each turn; their links carry nothing else."""
    topology = torus(2, 2)
    spec = StackSpec(name="plain", collective_axes="one_by_one")
    rows = np.zeros((4, 4))
    rows[0, 3] = ROWS
    routing = Routing(rows, rows, None, np.ones((4, 1)), np.ones(4), even=False)
    axes = tuple(axis.name for axis in topology.mesh)
    between = TokenExchange(topology, spec, ExpertsLayout(dispatch="per_rank"), "normal", axes, axes)
    for way, order in (("dispatch", axes), ("combine", axes[::-1])):
        parts = between.parts(way, routing, ROWS, 1024)
        assert [part.axes for part in parts] == [(axis,) for axis in order]
        for part in parts:
            assert (part.plan.share * part.size_bytes).sum() == pytest.approx(ROWS * 1024)


@pytest.mark.parametrize("name", one_of_each_wiring(SMALL))
def test_every_wiring_exchanges_tokens(name):
    spec, stack = load.machine(name)
    topology = build(spec, stack)
    experts = ExpertsSpec(count=2 * topology.chips, top_k=2, d_ff=8)
    for load_shape in ("uniform", "zipf"):
        routing = RoutingSpec.model_validate({"load": load_shape})
        result = run_exchange(
            topology, stack, ExchangeCase("dispatch", 64, 1024, "bf16", experts, routing, ExpertsLayout())
        )
        assert result.bound_s * (1 - 1e-9) <= result.time_s
        assert 0 < result.busiest_link_share <= 1


@pytest.mark.parametrize("load_shape", LOADS)
def test_rows_of_every_load_add_up(load_shape):
    """Each token has top_k rows of experts, on 1 to top_k chips."""
    routing = route(EXPERTS, RoutingSpec(load=load_shape), ExpertsLayout(), Split(8, 8, 64))
    assert routing.rows.sum() == pytest.approx(8 * 64 * EXPERTS.top_k)
    assert routing.pairs.sum() == pytest.approx(8 * 64 * EXPERTS.top_k)
    assert 8 * 64 <= routing.tokens.sum() <= 8 * 64 * EXPERTS.top_k


def test_a_perfect_router_spreads_a_token_over_as_many_chips_and_boxes_as_it_can():
    """Three experts on three of 8 chips, in both of two boxes; with one group of two, in one box."""
    routing = route(EXPERTS, RoutingSpec(load="perfect_router"), ExpertsLayout(), Split(8, 8, 64, (0,) * 4 + (1,) * 4))
    assert routing.tokens == pytest.approx(np.full((8, 8), 64 * 3 / 8))
    assert routing.boxed == pytest.approx(np.full((8, 2), 64.0))
    limited = EXPERTS.model_copy(update={"groups": 2, "top_groups": 1})
    routing = route(limited, RoutingSpec(load="perfect_router"), ExpertsLayout(), Split(8, 8, 64, (0,) * 4 + (1,) * 4))
    assert routing.boxed == pytest.approx(np.full((8, 2), 32.0))


# --- a hot chip ------------------------------------------------------------------------------------------------------

PORT, LATENCY_S, ROWS = 100e9, 1e-6, 1000


def dispatch_s(lines: list[list[int]], tmp_path: Path, **layout: object) -> float:
    """Time of the dispatch on four chips of one expert each, and one expert more on the first."""
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(",".join(map(str, line)) for line in lines))
    experts = ExpertsSpec(count=5, top_k=1, d_ff=8)
    placed = ExpertsLayout.model_validate({"replicas": 3, **layout})
    routing = RoutingSpec(trace=str(path))
    alone = ExchangeCase("dispatch", ROWS, 512, "bf16", experts, routing, placed)
    return run_exchange(switch(4, PORT, LATENCY_S), STACK, alone).time_s


def test_a_hot_chip_lengthens_dispatch_by_what_it_receives_and_copies_bring_it_back(tmp_path):
    """Rows of 1 KiB on four chips. All 4 N tokens choose expert 0: its chip receives 3 N rows through its port, the
    time is 3 N x 1 KiB / rate. With a copy on each chip, N/4 of each other chip's tokens come to each: 3 N/4 rows, a
    quarter of the time. Eight slots of two per chip hold 5 experts and 3 copies; in order the copies of expert 0 fill
    slots 0 to 3, two chips, which then receive 3/2 N rows from the others and each other: 2 N/2 from the two cold
    chips and N/2 from the other hot one."""
    hot = [[0]] * (4 * ROWS)
    row_s = 1024 / PORT
    even = dispatch_s(hot, tmp_path, placement="balanced")
    assert even == pytest.approx(0.75 * ROWS * row_s + LATENCY_S, rel=1e-6)
    assert dispatch_s(hot, tmp_path, placement="in_order") == pytest.approx(1.5 * ROWS * row_s + LATENCY_S, rel=1e-6)
    experts = ExpertsSpec(count=4, top_k=1, d_ff=8)
    routing = RoutingSpec(trace=str(tmp_path / "trace.csv"))
    alone = ExchangeCase("dispatch", ROWS, 512, "bf16", experts, routing, ExpertsLayout())
    result = run_exchange(switch(4, PORT, LATENCY_S), STACK, alone)
    assert result.time_s == pytest.approx(3 * ROWS * row_s + LATENCY_S, rel=1e-6)
    assert result.balance == pytest.approx(1 / 4)


# --- times of kernels ------------------------------------------------------------------------------------------------


def with_kernel(**times: object) -> StackSpec:
    kernel = {"dispatch": {"value": times}, "combine": {"value": times}}
    return StackSpec.model_validate({"name": "kernels", "exchange": {"normal": kernel}})


def time_s(stack: StackSpec, topology: Topology | None = None, **layout: object) -> float:
    """2 chips, 1000 tokens of 1 KiB each, all of which choose both experts: each chip sends and receives 1000 rows and
    keeps 1000."""
    experts = ExpertsSpec(count=2, top_k=2, d_ff=8)
    placed = ExpertsLayout.model_validate(layout)
    alone = ExchangeCase("dispatch", ROWS, 512, "bf16", experts, RoutingSpec(), placed)
    return run_exchange(topology or switch(2, PORT, LATENCY_S), stack, alone).time_s


def test_a_kernel_has_a_launch_a_share_of_the_links_and_a_least_time():
    wire = 1000 * 1024 / PORT
    assert time_s(with_kernel()) == pytest.approx(wire + LATENCY_S, rel=1e-6)
    assert time_s(with_kernel(overhead="5 us")) == pytest.approx(wire + LATENCY_S + 5e-6, rel=1e-6)
    assert time_s(with_kernel(share={"nvlink": 0.5})) == pytest.approx(2 * wire + LATENCY_S, rel=1e-6)
    assert time_s(with_kernel(least="1 ms")) == pytest.approx(1e-3, rel=1e-6)


def test_multiprocessors_copy_the_rows_of_a_chip():
    """2000 rows, those that stay included, of 1 us and 1 KiB at 1.024 GB/s, another us, on 4 multiprocessors: 1 ms
    after the launch; on 8, as the layout may say, half of that."""
    stack = with_kernel(overhead="5 us", multiprocessors=4, row="1 us", row_rate="1.024 GB/s")
    assert time_s(stack) == pytest.approx(1e-3 + 5e-6, rel=1e-6)
    assert time_s(stack, multiprocessors=8) == pytest.approx(0.5e-3 + 5e-6, rel=1e-6)


def test_an_adapter_takes_time_for_every_row():
    """Each of 1000 rows of 1 KiB takes 1 us of the adapter beside its 20.48 ns of bytes; two links of 2 us."""
    stack = with_kernel(message="1 us")
    wire = 1000 * (1e-6 + 1024 / 50e9)
    assert time_s(stack, two_boxes(1)) == pytest.approx(wire + 4e-6, rel=1e-6)
