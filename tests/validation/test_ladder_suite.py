"""The Ladder suite: how rows are read, what they predict, and that the speed-ups stand against those measured."""

from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
from support.validations import validation

from sim.errors import InputError
from sim.report.present.validation import Validation
from sim.specs import load
from sim.specs.suite import GenerationSuite
from sim.studies.validate import calibrate
from sim.studies.validate.cases import read
from sim.studies.validate.validate import validate

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "scenarios/published/ladder.csv"
PAGE = ROOT / "topologies/README.md"


def lines_of_rows():
    """Header and rows as text; no cell has a line break."""
    return ROWS.read_text(encoding="utf-8").splitlines()


@pytest.fixture(params=[pytest.param("ladder", marks=pytest.mark.slow)])
def some(request: pytest.FixtureRequest) -> Validation:
    """All rows, most of which no constant was fitted to."""
    return validation(request.param)


def test_speedups_are_predicted_within_what_the_suite_allows(some):
    assert some.passes
    assert some.speedup_errors.median < 0.02
    assert some.simulated.median < 0.03


def test_at_batch_64_on_8_gpus_parallel_is_at_least_as_fast_as_ladder(some):
    rate = {o.case_id: o.simulated for o in some.outcomes if o.metric == "tokens_per_s"}
    parallel, ladder = (rate[f"ladder_70b_tp8_p2pon_b64_{variant}/tokens_per_s"] for variant in ("parallel", "ladder"))
    assert parallel >= ladder


def test_without_peer_to_peer_access_ladder_gains_more(some):
    gain = {ratio.case_id: ratio for ratio in some.speedups if "b4_ladder" in ratio.case_id}
    off, on = (gain[f"ladder_70b_tp8_p2p{p2p}_b4_ladder/tokens_per_s"] for p2p in ("off", "on"))
    assert off.published > on.published + 0.2
    assert off.simulated > on.simulated + 0.2


def test_closed_forms_stand_beside_the_simulation_and_know_less_of_ladder(some):
    """Per operation they miss joins and interference; per sublayer they miss kernels' overheads as well."""
    assert all(set(outcome.forms) == {"per sublayer", "per operation"} for outcome in some.outcomes)
    assert some.simulated.median < some.form("per operation").median < some.form("per sublayer").median
    gated = [ratio for ratio in some.speedups if ratio.counts]
    worst = max(abs(ratio.form_error("per operation")) for ratio in gated)
    assert max(abs(ratio.error) for ratio in gated) < worst


OTHERS = [
    ("8xH100 NVSwitch", "1b", 8, "on", 3, "ladder", "prefill_s"),
    ("8xH100 NVSwitch", "3b", 4, "on", 6, "parallel", "decode_s"),
    ("8xH100 NVSwitch", "llama-3-8b", 1, "on", 5, "standard", "tokens_per_s"),
    ("8xH100 NVSwitch", "llama-3.1-8B", 2, "off", 5, "hybrid-16", "tokens_per_s"),
    ("8xH100 NVSwitch", "34B", 4, "off", 2, "desync-4x", "decode_s"),
    ("8xH100 NVSwitch", "llama-3-70b", 2, "on", 7, "ladder", "decode_s"),
    ("8xH100 NVSwitch", "bloom-176b", 8, "on", 1, "upper-bound", "decode_s"),
    ("16xH100, 2 nodes", "llama-3.1-405b", 16, "on", 3, "ladder", "decode_s"),
    ("16xH100, 2 nodes", "1b", 16, "off", 3, "ladder", "decode_s"),
]
"""Rows of kinds that were not measured here: other models, numbers of GPUs and batches."""


@pytest.mark.slow
def test_rows_of_other_models_gpus_and_batches_run(tmp_path):
    path = tmp_path / "rows.csv"
    header = "case_id,source,system,model,tp,p2p,batch,prompt_tokens,generated_tokens,variant,metric,value"
    lines = [
        f'{i},invented,"{system}",{model},{tp},{p2p},{batch},256,128,{variant},{metric},1'
        for i, (system, model, tp, p2p, batch, variant, metric) in enumerate(OTHERS)
    ]
    path.write_text("\n".join([header, *lines]), encoding="utf-8")
    assert len(validate("ladder", path).outcomes) == len(OTHERS)


def test_the_models_are_those_of_the_measured_code():
    suite = load.suite("ladder")
    assert isinstance(suite, GenerationSuite)
    sizes = {}
    for name in ("1b", "3b", "llama-3-8b", "34B", "llama-3-70b", "bloom-176b", "llama-3.1-405b"):
        fitting = next(settings for pattern, settings in suite.models.items() if fnmatchcase(name, pattern))
        settings = [f"{field}={value}" for field, value in fitting.items()]
        model = load.scenario("llama3_70b_tp8_generate", settings).model
        sizes[name] = (model.layers, model.d_model, model.heads, model.kv_heads, model.d_ff, model.vocabulary)
        assert model.d_head == model.d_model // model.heads
    assert sizes == {
        "1b": (40, 1536, 24, 24, 4096, 49152),
        "3b": (40, 2304, 32, 32, 9216, 49152),
        "llama-3-8b": (32, 4096, 32, 8, 14336, 128256),
        "34B": (48, 8192, 64, 8, 22016, 128256),
        "llama-3-70b": (80, 8192, 64, 8, 28672, 128256),
        "bloom-176b": (70, 14336, 112, 112, 50176, 250880),
        "llama-3.1-405b": (126, 16384, 128, 16, 53248, 128256),
    }


@pytest.mark.release
@pytest.mark.parametrize(
    ("lost", "figures", "prefills"),
    [(1, "1.8, 4.4, 12.2", "-6.7 %"), (2.6, "1.7, 3.8, 11.3", "-5.3 %"), (0, "1.9, 4.4, 12.8", "-8.6 %")],
)
def test_what_interference_explains_without_a_constant_of_ladder(lost: float, figures: str, prefills: str):
    """The multiprocessors that channels hold, then 19 % of the rate besides: 0.19 x 132 / 16 = 1.6 more for each."""
    settings = [f"stack.compute_interference={lost}", f"stack.memory_interference={lost}", "stack.channel_rate=null"]
    found = validate("ladder", settings=settings)
    errors = found.speedup_errors
    assert figures == ", ".join(f"{100 * error:.1f}" for error in (errors.median, errors.nine_in_ten, errors.worst))
    slow = [each.error for each in found.gated if each.variant == "ladder" and each.metric == "prefill_s"]
    assert f"{100 * np.median(slow):+.1f} %" == prefills
    row = f"| {lost}, {lost}, none:"
    (line,) = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(row))
    assert line.endswith(f"| {figures} | {prefills} |")


def test_a_row_is_a_scenario():
    suite, cases = read("ladder")
    assert isinstance(suite, GenerationSuite)
    by_id = {case.case_id: case for case in cases}
    decode = by_id["ladder_70b_tp4_p2pon_b16_desync2x/decode_s"].run.scenario()
    assert (decode.model.name, decode.layout.mesh.tensor, decode.residual) == ("llama3_70b", 4, "desync2")
    assert decode.workload.model_dump(include={"phase", "batch", "prompt", "context", "generate", "static_cache"}) == {
        "phase": "decode",
        "batch": 16,
        "prompt": None,
        "context": 1024,
        "generate": 511,
        "static_cache": 1536,
    }
    whole = by_id["ladder_70b_tp8_p2poff_b64_parallel/tokens_per_s"].run.scenario()
    assert (whole.topology.name, whole.workload.steps, whole.residual) == ("dgx_h100_p2p_disabled", 512, "parallel")


def fitted_fields():
    stage, fields = load.suite("ladder").calibration, []
    while stage is not None:
        fields += [field for each in stage.constants.values() for field in each.fields]
        stage = stage.then
    return fields


def number(scenario, field: str):
    """A sourced number by its dotted field."""
    value = scenario
    for name in field.split("."):
        value = value[name] if isinstance(value, dict) else getattr(value, name)
    return value


@pytest.mark.release
def test_the_shipped_files_carry_what_the_fit_gives():
    """Within 2 %, by which the search may end elsewhere."""
    found = calibrate.fit("ladder", cross_validate=False)
    assert found.settled
    shipped, fitted = (load.scenario("llama3_70b_tp8_p2p_disabled_decode", each) for each in ([], found.settings()))
    for name, constant in found.constants.items():
        assert constant.low < found.values[name] < constant.high
    for field in fitted_fields():
        assert number(shipped, field).value == pytest.approx(number(fitted, field).value, rel=0.02), field


def test_fitted_constants_stand_in_the_files_of_the_machine_and_its_stack():
    scenario = load.scenario("llama3_70b_tp8_p2p_disabled_decode")
    for field in fitted_fields():
        assert "sim calibrate ladder" in number(scenario, field).source, field


def test_a_row_of_an_unknown_variant_names_its_line(tmp_path):
    header, first, *_ = lines_of_rows()
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, first.replace(",standard,", ",lader,")]), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows.csv:2: unknown variant, got 'lader'; did you mean 'ladder'"):
        read("ladder", path)
