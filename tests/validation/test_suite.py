"""A published row becomes a scenario; a row that cannot says which line is wrong."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from support.published import ROW, write_rows, write_suite

from sim.closed_form.prediction import PAPER_LAYOUTS
from sim.errors import InputError
from sim.specs import load
from sim.studies.validate.cases import read
from sim.studies.validate.measurements import calibrated_places, find_repeats

PALM = {"model": "PaLM 540B (64 padded heads)", "chips": 64, "mesh": "4x4x4", "batch": 64, "context_tokens": 2048}

OPTIONAL = ("source", "system", "reading_error_pct", "input_tokens", "generated_tokens")
"""Columns that a row of a decode step can do without."""


@pytest.fixture
def pope(tmp_path: Path):
    """The scenario of one row of the shipped suite."""

    def scenario(**row):
        _, (case,) = read("pope", write_rows(tmp_path / "rows.csv", [PALM | row]))
        return case.run.scenario()

    return scenario


@pytest.fixture
def tiny(tmp_path: Path):
    """The cases of a tiny suite."""

    def cases(*rows, **fields):
        return read(write_suite(tmp_path, rows, **fields))[1]

    return cases


# --- the shipped suite reads rows of its kind, not only its own ------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "layers", "heads", "kv_heads", "block"),
    [
        ("PaLM 540B (64 padded heads)", 118, 64, 1, "parallel"),
        ("PaLM 540B serial block", 118, 64, 1, "serial"),
        ("PaLM 540B 8-layer multiquery d_head 256", 8, 64, 1, "parallel"),
        ("PaLM 540B 8-layer multihead d_head 128", 8, 64, 48, "parallel"),
        ("PaLM 62B", 64, 32, 1, "parallel"),
        ("PaLM 8B", 32, 16, 1, "parallel"),
        ("MT-NLG 530B", 105, 128, 128, "serial"),
    ],
)
def test_a_model_is_found_by_its_name(pope, model, layers, heads, kv_heads, block):
    found = pope(model=model)
    assert (found.layers, found.model.computed_heads) == (layers, heads)
    assert (found.model.kv_heads, found.block) == (kv_heads, block)


@pytest.mark.parametrize(
    ("mesh", "chips", "wraps"),
    [("1x1x1", 1, False), ("2x2x2", 8, False), ("2x4x4", 32, False), ("4x4x4", 64, True), ("4x8x8", 256, True)],
)
def test_a_slice_wraps_where_it_is_made_of_cubes(pope, mesh, chips, wraps):
    axes = pope(model="PaLM 62B", mesh=mesh, chips=chips).topology.axes
    assert "x".join(str(axis.size) for axis in axes.values()) == mesh
    assert {axis.wrap for axis in axes.values()} == {wraps}


@pytest.mark.parametrize(("mesh", "chips"), [("4x4x4", 64), ("8x4x4", 128), ("4x8x8", 256)])
def test_palm_540b_has_as_many_heads_as_chips(pope, mesh, chips):
    assert pope(mesh=mesh, chips=chips).model.computed_heads == chips


@pytest.mark.parametrize("mesh", ["2x2x2", "8x4x4", "4x8x8"])
def test_a_slice_has_the_chips_links_and_overheads_of_the_shipped_machine(pope, mesh):
    x, y, z = (int(length) for length in mesh.split("x"))
    scenario, (shipped, stack) = pope(mesh=mesh, chips=x * y * z), load.machine(f"tpu_v4_{mesh}")
    found = scenario.topology
    assert (found.axes, found.chip, found.link) == (shipped.axes, shipped.chip, shipped.link)
    assert scenario.stack == stack


def test_tokens_are_those_of_the_phase(pope):
    tokens = {"input_tokens": 60, "context_tokens": 80, "generated_tokens": 20}

    def workload(phase):
        found = pope(phase=phase, **tokens).workload
        return found.phase, found.prompt, found.context, found.generate, found.steps

    assert workload("prefill") == ("prefill", 60, None, None, 1)
    assert workload("decode_step") == ("decode", None, 80, 1, 1)
    assert workload("decode_total") == ("decode", None, 80, 20, 20)
    assert workload("total") == ("generate", 60, None, 20, 21)


def test_number_formats_are_named_as_in_the_paper(pope):
    workload = pope(weight_dtype="int8").workload
    assert (workload.weights, workload.activations, workload.kv_cache) == ("int8", "bf16", "bf16")


@pytest.mark.parametrize("phase", ["prefill", "decode_step"])
@pytest.mark.parametrize("ffn", PAPER_LAYOUTS)
def test_every_layout_runs_as_the_stack_does(pope, phase, ffn):
    scenario = pope(phase=phase, ffn_layout=ffn, input_tokens=2048)
    assert scenario.layout.overlap is None
    assert scenario.overlap == scenario.stack.overlap == "collective_matmul"


def test_every_shipped_row_is_a_scenario():
    _, cases = read("pope")
    assert len({case.case_id for case in cases}) == len(cases) > 80
    for case in cases:
        assert case.run.scenario().reference is None


def test_no_row_is_special(tmp_path):
    """Neither its name nor its value changes how a row is simulated."""
    _, cases = read("pope")
    with (load.path("suite", "pope").parent / load.suite("pope").rows).open(encoding="utf-8", newline="") as file:
        rows = [row | {"case_id": f"row-{i}", "value": 0.123} for i, row in enumerate(csv.DictReader(file))]
    _, renamed = read("pope", write_rows(tmp_path / "rows.csv", rows))
    assert [case.run.settings for case in renamed] == [case.run.settings for case in cases]


# --- what is gated ---------------------------------------------------------------------------------------------------


def test_a_row_read_less_exactly_than_the_limit_is_not_gated(tiny):
    rows = [{"case_id": f"r{i}", "reading_error_pct": text} for i, text in enumerate(("", "0", "3", "3.1", "50"))]
    reasons = [case.not_gated for case in tiny(*rows, gated_up_to="3 %")]
    assert reasons == ["", "", "", "published to 3.1 % only", "published to 50 % only"]


def test_without_a_limit_every_row_is_gated(tiny):
    (case,) = tiny({"reading_error_pct": 50})
    assert case.not_gated == ""


def test_rows_named_as_inconsistent_are_not_gated_and_say_why(tiny):
    odd, even = tiny({"case_id": "odd-1"}, {"case_id": "even-1"}, not_gated={"odd-*": "the source contradicts itself"})
    assert (odd.not_gated, even.not_gated) == ("the source contradicts itself", "")


# --- a suite of one's own --------------------------------------------------------------------------------------------


def test_a_suite_names_files_beside_it(tmp_path):
    path = write_suite(tmp_path / "own", [{"metric": "mfu", "value": 0.4}])
    suite, (case,) = read(path)
    assert (suite.name, case.metric, case.published) == ("made_up", "mfu", 0.4)
    assert case.run.scenario().model.name == "model"


def test_the_first_pattern_that_fits_a_model_counts(tiny):
    models = {"tiny wide*": {"model.d_ff": 64}, "tiny*": {"model.d_ff": 128}}
    wide, other = tiny({"model": "tiny wide one"}, {"model": "tiny"}, models=models)
    assert (wide.run.scenario().model.d_ff, other.run.scenario().model.d_ff) == (64, 128)


def test_the_first_pattern_that_fits_a_source_counts(tiny):
    figures = {"*Fig *": {"layout.logits": "none"}}
    cases = tiny({"source": "someone Fig 3"}, {"source": "someone Table 3"}, sources=figures)
    assert [case.run.scenario().layout.logits for case in cases] == ["none", "last"]


def test_further_settings_win(tiny):
    (case,) = tiny({}, sources={"*": {"topology.link.latency": "2 us"}})
    assert case.run.scenario().topology.link.latency.value == pytest.approx(2e-6)
    assert case.run.scenario("topology.link.latency=3 us").topology.link.latency.value == pytest.approx(3e-6)


# --- errors name the line --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"phase": "decode"}, "unknown phase, got 'decode'; did you mean 'decode_step'?"),
        ({"metric": "latency"}, "unknown metric, got 'latency'; did you mean 'latency_s'?"),
        ({"model": "GPT-3"}, "must fit a pattern of the suite's 'models', got 'GPT-3'; add a pattern; there are tiny*"),
        ({"mesh": "2x"}, "column 'mesh' must give the length of each axis, such as 4x4x4, got '2x'"),
        ({"mesh": "2x2x2"}, "column 'mesh' must give the length of each axis, such as 4x4x4, got '2x2x2'"),
        ({"mesh": "0x4"}, "column 'mesh' must give the length of each axis, such as 4x4x4, got '0x4'"),
        ({"mesh": "2x-2"}, "column 'mesh' must give the length of each axis, such as 4x4x4, got '2x-2'"),
        ({"mesh": ""}, "a row needs a value in column 'mesh'"),
        ({"chips": 8}, "column 'chips' must be those of the mesh, 4, got 8"),
        ({"batch": "four"}, "column 'batch' must be a whole number, got 'four'"),
        ({"context_tokens": 2.5}, "column 'context_tokens' must be a whole number, got '2.5'"),
        ({"value": "1 ms"}, "column 'value' must be a number above 0, got '1 ms'"),
        ({"value": 0}, "column 'value' must be a number above 0, got '0'"),
        ({"value": "nan"}, "column 'value' must be a number above 0, got 'nan'"),
        ({"reading_error_pct": "-1"}, "column 'reading_error_pct' must be a number of at least 0, got '-1'"),
        ({"reading_error_pct": "few"}, "column 'reading_error_pct' must be a number of at least 0, got 'few'"),
    ],
    ids=str,
)
def test_a_row_that_is_wrong_names_its_line(tiny, tmp_path, change, message):
    with pytest.raises(InputError) as caught:
        tiny({"case_id": "fine"}, change)
    assert str(caught.value) == f"{tmp_path / 'rows.csv'}:3: {message}"


def test_a_row_of_an_unknown_system_is_refused(tiny):
    with pytest.raises(InputError, match=r"must fit a pattern of the suite's 'systems', got 'H100'; add a pattern"):
        tiny({"system": "H100"}, systems={"TPU v4*": {}})
    (case,) = tiny({"system": "TPU v4"}, systems={"TPU v4*": {"topology.link.latency": "2 us"}})
    assert case.run.scenario().topology.link.latency.value == pytest.approx(2e-6)


def test_a_mesh_that_the_bases_machine_does_not_have_is_refused(tiny):
    with pytest.raises(InputError, match=r"or a part of it: axis x has 2, got '4x2'; name a scenario on a 4x2 machine"):
        tiny({"mesh": "4x2", "chips": 8})


def test_rows_in_place_of_a_suite_say_how_they_are_given(tmp_path):
    write_suite(tmp_path, [{}])
    with pytest.raises(
        InputError, match=r"must be a suite file, not its rows; `sim validate SUITE --rows .*rows\.csv`"
    ):
        read(str(tmp_path / "rows.csv"))


def test_lines_are_counted_as_an_editor_does(tmp_path):
    suite, rows = write_suite(tmp_path), tmp_path / "rows.csv"
    write_rows(rows, [{"source": "two\nlines"}, {"phase": "both"}])
    text = rows.read_text(encoding="utf-8").replace("step,", "\nstep,", 1)  # and an empty line
    rows.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.csv:5: unknown phase"):
        read(suite)


@pytest.mark.parametrize("column", [name for name in ROW if name not in OPTIONAL])
def test_a_missing_column_is_named(tmp_path, column):
    suite = write_suite(tmp_path)
    write_rows(tmp_path / "rows.csv", [{}], [name for name in ROW if name != column])
    with pytest.raises(InputError, match=rf"rows\.csv:2: a row needs a value in column '{column}'"):
        read(suite)


def test_columns_that_a_row_can_do_without(tmp_path):
    suite = write_suite(tmp_path)
    write_rows(tmp_path / "rows.csv", [{}], [name for name in ROW if name not in OPTIONAL])
    (case,) = read(suite)[1]
    assert (case.source, case.not_gated) == ("", "")


def test_a_file_from_a_spreadsheet_is_read(tmp_path):
    suite, rows = write_suite(tmp_path), tmp_path / "rows.csv"
    rows.write_bytes(b"\xef\xbb\xbf" + rows.read_bytes())  # a byte order mark
    assert read(suite)[1][0].case_id == "step"


@pytest.mark.parametrize(
    ("data", "rule"),
    [
        (b"", "must hold a row"),
        (b"case_id,source\n", "must hold a row"),
        (b"\xff\xfe,\n1,2\n", "must be a CSV file in UTF-8"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, data, rule):
    suite, rows = write_suite(tmp_path), tmp_path / "rows.csv"
    rows.write_bytes(data)
    with pytest.raises(InputError) as caught:
        read(suite)
    assert str(caught.value) == f"{rows}: {rule}"


def test_a_file_that_is_not_there_is_named(tmp_path):
    suite = write_suite(tmp_path)
    with pytest.raises(InputError, match=r"none\.csv: cannot be read: No such file or directory"):
        read(suite, tmp_path / "none.csv")


def test_a_suite_without_its_tolerance_is_refused(tmp_path):
    files = write_suite(tmp_path, tolerance={"median": "5 %"})
    with pytest.raises(InputError, match=r"suite\.yaml: tolerance: 'nine_in_ten' and 'worst' are required"):
        read(files)


# --- the rules of calibration ----------------------------------------------------------------------------------------


def test_few_constants_are_fitted_to_every_gated_measurement_once():
    """An MFU that repeats a latency, and a point of two figures, are no measurements of their own."""
    suite, cases = read("pope")
    places = calibrated_places(suite.calibration, cases)
    assert len(suite.calibration.constants) <= 5
    assert places == [place for place, case in enumerate(cases) if not case.not_gated]
    repeats = find_repeats(cases, {place: case.run.scenario() for place, case in enumerate(cases)})
    once = [cases[place].run.settings for place in places if place not in repeats]
    assert len(once) == len(set(once)) == 54
    assert set(once) == {cases[place].run.settings for place in places}


def test_one_set_of_constants_for_all_machines_of_a_kind():
    """Whatever a slice's shape: every file of the TPU v4 has the same chip, link and software."""
    machines = [load.machine(name) for name in load.shipped("topology") if name.startswith("tpu_v4")]
    assert len(machines) > 5
    first, software = machines[0]
    for machine, stack in machines:
        assert (machine.chip, machine.link) == (first.chip, first.link)
        assert stack == software


def test_constants_stand_in_the_files_with_their_source():
    suite, _ = read("pope")
    scenario = load.scenario(suite.base)
    for constant in suite.calibration.constants.values():
        for field in constant.fields:
            value = scenario
            for name in field.split("."):
                value = getattr(value, name)
            assert "sim calibrate pope" in value.source
