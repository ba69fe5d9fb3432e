"""Stacks that serve mixtures of experts say what dispatch and combine take; a stack may gather all tokens instead."""

from pathlib import Path

import pytest
from support.served_mixture import mixture

from sim.simulate.run import run
from sim.specs import TorusSpec, load
from sim.specs.basis import rests_on
from sim.studies.sweep.points import list_points

SCENARIOS = sorted(path.stem for path in (Path(__file__).parents[2] / "scenarios").glob("*.yaml"))
ON_ROUTES = [
    name
    for name in SCENARIOS
    if (given := load.scenario(name)).model.experts and not isinstance(given.topology, TorusSpec)
]
FREE = "latencies and bandwidths of the links alone"


@pytest.mark.parametrize("name", ON_ROUTES)
def test_no_shipped_scenario_rests_on_a_free_exchange(name: str):
    """All choices of a sweep but those of its work; layers up to the first with experts, of a load that folds."""
    given = load.scenario(name)
    assert given.model.experts is not None
    few = "workload.routing.load=uniform", f"engine.layers={given.model.experts.dense_first + 1}"
    points = list_points(given) if given.sweep else []
    choices = (tuple(each for each in point.settings if not each.startswith("workload.")) for point in points)
    for settings in dict.fromkeys(choices) or [()]:
        assert not any(FREE in note for note in run(load.scenario(name, [*settings, *few])).report.notes)


def test_a_stack_without_kernels_says_that_its_exchange_is_free():
    assert any(FREE in note for note in run(mixture("stack=torch_compile")).report.notes)
    gathers = run(mixture("stack=torch_compile", "layout.experts.dispatch=all_gather"))
    assert not any(FREE in note for note in gathers.report.notes)


def exchanges(*settings: str) -> set[str]:
    """Names of the collectives that are a dispatch or a combine."""
    names = [op.op for op in run(mixture(*settings)).report.ops]
    return {name for name in names if "dispatch" in name or "combine" in name}


def test_vllm_gathers_tokens_unless_a_kernel_is_named():
    assert exchanges("stack=vllm") == {"all_gather(t) dispatch experts", "reduce_scatter(t) combine experts"}
    assert exchanges("stack=vllm", "layout.experts.kernel=low_latency") == {"dispatch(t) experts", "combine(t) experts"}


def test_a_result_rests_on_no_constant_of_experts_that_it_has_not():
    """Kernels of dispatch and combine count where tokens are sent with them."""

    def fields(*settings: str) -> set[str]:
        names = [constant.field for constant in rests_on(mixture("stack=vllm", *settings)).constants]
        return {name for name in names if name.startswith(("stack.grouped_", "stack.exchange"))}

    grouped = {"stack.grouped_efficiency", "stack.grouped_overhead"}
    assert fields() == grouped
    sent = {f"stack.exchange.low_latency.{way}" for way in ("dispatch", "combine")}
    assert fields("layout.experts.kernel=low_latency") == grouped | sent
    assert fields("model=llama3_70b", "layout={ffn: tensor_parallel}") == set()


@pytest.mark.parametrize(("capacity", "dropped"), [(0.75, ["25.0%"]), (1, []), (2, [])])
def test_a_report_says_which_share_of_the_rows_experts_drop(capacity: float, dropped: list[str]):
    """Of a uniform load each expert has the mean rows, of which it keeps `capacity` times as many."""
    report = run(mixture(f"layout.experts.capacity={capacity}")).report
    assert [note.split(": ")[1].split()[0] for note in report.notes if note.startswith("experts drop")] == dropped
    assert report.experts is not None
    assert report.experts.expected_fullest_rows is None  # its closed form knows of no capacity
