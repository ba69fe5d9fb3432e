"""Published throughput and latency of deployments against single simulated steps."""

import csv
from pathlib import Path

import pytest
from support.validations import validation

from sim.errors import InputError
from sim.simulate.latency import latency_s
from sim.specs import load
from sim.studies.validate.cases import Case, read
from sim.studies.validate.runs import ScenarioRun
from sim.studies.validate.validate import simulate_case, validate


def case_of(case_id: str) -> Case:
    return next(case for case in read("deployments")[1] if case.case_id == case_id)


def test_tokens_of_a_prefill_are_those_of_its_prompts_over_chips_and_time():
    """32 prompts of 2048 on 4 GPUs: 16,384 tokens on each."""
    case = case_of("sglang_gb200_ep4_prefill_2k")
    assert isinstance(case.run, ScenarioRun)
    assert simulate_case(case) == pytest.approx(16_384 / latency_s(case.run.scenario()))


def test_tokens_of_a_decode_step_are_those_that_are_expected_to_be_accepted():
    """1408 sequences on each GPU, of which each adds 1 + 0.6 tokens where one is proposed."""
    case, settings = case_of("sglang_gb200_ep48_decode_2k"), ("workload.speculation={draft: 1, acceptance: 0.6}",)
    assert isinstance(case.run, ScenarioRun)
    assert simulate_case(case, *settings) == pytest.approx(1408 * 1.6 / latency_s(case.run.scenario(*settings)))


def rows_with(folder: Path, **changes: str) -> Path:
    """The first row of the suite with some cells changed."""
    path = load.path("suite", "deployments").with_suffix(".csv")
    with path.open(encoding="utf-8", newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["case_id"] == "sglang_gb200_ep4_prefill_2k") | changes
    own = folder / "rows.csv"
    with own.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, row)
        table.writeheader()
        table.writerow(row)
    return own


@pytest.mark.parametrize(
    ("published", "faster", "right"), [("2", "sglang_one_sided", False), ("0.5", "sglang_nvfp4", True)]
)
def test_a_speed_up_is_the_time_of_the_baseline_over_that_of_the_engine(
    published: str, faster: str, right: bool, tmp_path: Path
):
    """Matmuls of experts on 8-bit numbers take longer than on 4-bit ones: the baseline is ahead."""
    own = rows_with(tmp_path, metric="speedup", engine="sglang_one_sided", baseline="sglang_nvfp4", value=published)
    found = validate("deployments", own)
    (case,) = read("deployments", own)[1]
    assert isinstance(case.run, ScenarioRun)
    assert case.run.baseline is not None
    times = [latency_s(load.scenario(case.run.base, settings)) for settings in (case.run.baseline, case.run.settings)]
    assert found.outcomes[0].simulated == pytest.approx(times[0] / times[1])
    assert times[0] < times[1]
    (ordering,) = found.orderings
    assert ordering.case_id.endswith(f"with {faster}")
    assert ordering.published == 2
    assert ordering.right == right


def test_rows_of_ones_own_name_their_mistakes(tmp_path: Path):
    for change, message in (
        ({"engine": "vlm"}, "must fit a pattern of the suite's 'engines', got 'vlm'"),
        ({"metric": "speedup"}, "a row needs a value in column 'baseline'"),
        ({"gpus": "5"}, "must fit a pattern of the suite's 'systems', got 'GB200 NVL72 gpus=5'"),
    ):
        with pytest.raises(InputError, match=message):
            validate("deployments", rows_with(tmp_path, **change))


@pytest.mark.slow
def test_overlap_of_two_batches_pays_where_it_was_measured_to_pay():
    orderings = validation("deployments").orderings
    assert len(orderings) == 4
    assert all(ordering.right for ordering in orderings)
