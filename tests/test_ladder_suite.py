"""The Ladder suite: how rows are read, what they predict, and that the speed-ups stand against those measured."""

from pathlib import Path

import pytest

from sim import load
from sim.errors import InputError
from sim.specs import GenerationSuite
from sim.suite import read
from sim.validate import validate

ROWS = Path(__file__).parent.parent / "scenarios/published/ladder.csv"


def lines_of_rows():
    """Header and rows as text; no cell has a line break."""
    return ROWS.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def some(tmp_path_factory):
    """Rows of batch 4 and 64 on 8 GPUs, of which Parallel and desync were not fitted, and of batch 4 without P2P."""
    header, *lines = lines_of_rows()
    keep = [line for line in lines if "tp8_p2pon_b4_" in line or "tp8_p2pon_b64_" in line or "tp8_p2poff_b4_" in line]
    path = tmp_path_factory.mktemp("rows") / "some.csv"
    path.write_text("\n".join([header, *keep]), encoding="utf-8")
    return validate("ladder", path)


def test_speedups_are_predicted_within_what_the_suite_allows(some):
    assert some.passes
    assert some.speedup_errors.worst < 0.04
    assert some.simulated.median < 0.03


def test_at_batch_64_on_8_gpus_parallel_is_at_least_as_fast_as_ladder(some):
    rate = {(o.variant, "b64" in o.case_id): o.simulated for o in some.outcomes if o.metric == "tokens_per_s"}
    assert rate["parallel", True] >= rate["ladder", True]


def test_without_peer_to_peer_access_ladder_gains_more(some):
    gain = {ratio.case_id: ratio for ratio in some.speedups if "b4_ladder" in ratio.case_id}
    off, on = (gain[f"ladder_70b_tp8_p2p{p2p}_b4_ladder/tokens_per_s"] for p2p in ("off", "on"))
    assert off.published > on.published + 0.2
    assert off.simulated > on.simulated + 0.2


def test_a_row_is_a_scenario():
    suite, cases = read("ladder")
    assert isinstance(suite, GenerationSuite)
    by_id = {case.case_id: case for case in cases}
    decode = by_id["ladder_70b_tp4_p2pon_b16_desync2x/decode_s"].scenario()
    assert (decode.model.name, decode.layout.mesh.tensor, decode.residual) == ("llama3_70b", 4, "desync2")
    assert decode.workload.model_dump(include={"phase", "batch", "prompt", "context", "generate", "static_cache"}) == {
        "phase": "decode",
        "batch": 16,
        "prompt": None,
        "context": 1024,
        "generate": 511,
        "static_cache": 1536,
    }
    whole = by_id["ladder_70b_tp8_p2poff_b64_parallel/tokens_per_s"].scenario()
    assert (whole.topology.name, whole.workload.steps, whole.residual) == ("dgx_h100_p2p_disabled", 512, "parallel")


def test_fitted_constants_stand_in_the_chip_file():
    chip = load.topology_spec("dgx_h100_compiled").chip
    suite = load.suite("ladder")
    stage, fields = suite.calibration, []
    while stage is not None:
        fields += [field.removeprefix("topology.chip.") for each in stage.constants.values() for field in each.fields]
        stage = stage.then
    for field in fields:
        assert "sim calibrate ladder" in getattr(chip, field).source, field


def test_a_row_of_an_unknown_variant_names_its_line(tmp_path):
    header, first, *_ = lines_of_rows()
    path = tmp_path / "rows.csv"
    path.write_text("\n".join([header, first.replace(",standard,", ",lader,")]), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows.csv:2: unknown variant, got 'lader'; did you mean 'ladder'"):
        read("ladder", path)
