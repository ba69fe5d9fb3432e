"""Plugins: what they add is used, checked when first used, and every mistake is one line with file and line number."""

import json
from pathlib import Path

import pytest
import yaml
from support.commands import call, tree

from sim.api import load, simulate
from sim.errors import InputError
from sim.report.present import render as report
from sim.results.page.data import page_data
from sim.specs import load as files
from sim.specs import plugins
from sim.specs.load import plugin_files
from sim.studies.validate.validate import validate

SCENARIO = {
    "name": "mine",
    "plugins": ["my.py"],
    "topology": "tpu_v5e_2x4",
    "model": "llama3_8b",
    "workload": {"phase": "decode", "batch": 8, "context": 64, "generate": 1, "weights": "bf16"},
    "layout": {"ffn": "mine"},
    "engine": {"layers": 3},
}
PRESET = '''from sim.plugins import Uses, preset

@preset
def mine(axes):
    """As weight_stationary_2d, over the last axis."""
    return Uses(d_model=axes[-1:], heads=axes[:-1], d_ff=axes[:-1], stream=axes[:-1])
'''


def write(folder: Path, text: str = PRESET, **fields: object) -> Path:
    """Writes a plugin and a scenario that names it."""
    (folder / "my.py").write_text(text)
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump({**SCENARIO, **fields}))
    return path


def message(path: Path, *settings: str) -> str:
    with pytest.raises(InputError) as error:
        simulate(load(path, *settings))
    assert "\n" not in str(error.value)
    return str(error.value)


# --- what a plugin adds is used --------------------------------------------------------------------------------------


def test_a_preset_runs(tmp_path: Path):
    run = simulate(load(write(tmp_path)))
    assert any(op.op.startswith("reduce_scatter(y)") for op in run.report.ops)


def test_a_plugin_of_the_command_line_is_used_by_every_scenario(tmp_path: Path):
    (tmp_path / "my.py").write_text(PRESET)
    options = "--set", "layout.ffn=mine", "--set", "engine.layers=2", "--no-plots", "--quiet"
    command = "run", "palm540b_decode_ws2d", *options, "--out", tmp_path / "out"
    assert call(*command, "--plugin", tmp_path / "my.py") == (0, "")
    code, said = call(*command)
    assert code == 2
    assert f"is of a plugin that the scenario does not name, {tmp_path / 'my.py'}" in said


def test_a_closed_form_and_a_section_stand_in_report_and_page(tmp_path: Path, capsys: pytest.CaptureFixture):
    text = PRESET + (
        "from sim.plugins import Line, Table, closed_form, report\n"
        "@closed_form\ndef guess(scenario): return 0.5\n"
        "@report\ndef summary(report):\n"
        "    yield Line(f'chips: {report.chips}')\n    yield Table(('a', 'b'), ((('1', '2'),),))\n"
    )
    path = write(tmp_path, text)
    assert call("run", path, "--out", tmp_path / "out")[0] == 0
    blocks = page_data(simulate(load(path)), (), ())["memory"]
    assert [part.get("text") for part in blocks[-1]] == ["chips: 8", None]
    written = json.loads((tmp_path / "out/mine/report.json").read_text())
    assert written["plugin_forms"] == {"guess": 0.5}
    report.render(simulate(load(path)).report, plugins=load(path).plugins)
    printed = capsys.readouterr().out
    assert "closed form, guess" in printed
    assert "chips: 8" in printed


def test_a_suite_predicts_by_a_function_of_the_file_that_adds_a_collective(tmp_path: Path):
    """The file is loaded once: a collective can be registered only once."""
    (tmp_path / "my.py").write_text(BRUCK + "\n\ndef wire(collective, chips, size):\n    return size / 1e12\n")
    suite = {
        "name": "own",
        "kind": "collectives",
        "plugins": ["my.py"],
        "rows": "rows.csv",
        "tolerance": {"median": "5 %", "nine_in_ten": "12 %", "worst": "20 %"},
        "machines": {"*": {"topology": "mi300x"}},
        "algorithms": {"*": "bruck"},
        "predictions": {"wire": {"closed_form": "my:wire"}},
    }
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    (tmp_path / "rows.csv").write_text(
        "case_id,source,system,gpus,collective,bytes,time_us\na,,box,8,all_gather,1024,20\n"
    )
    (outcome,) = validate(str(tmp_path / "suite.yaml")).outcomes
    assert (outcome.algorithm, outcome.forms["wire"]) == ("bruck", pytest.approx(1024e-12))


def test_a_pipeline_schedule_runs(tmp_path: Path):
    """In the order of `sequential`, it takes as long."""
    text = (
        "from sim.plugins import pipeline_schedule\nfrom sim.lowering.pipeline.schedules import in_order\n"
        "@pipeline_schedule\ndef mine(plan): in_order(plan)\n"
    )
    layout = {"ffn": "tensor_parallel", "mesh": {"tensor": 2, "pipeline": 2}, "pipeline": {"schedule": "mine"}}
    path = write(tmp_path, text, topology="dgx_h100", layout=layout)
    times = [simulate(load(path, *more)).report.simulated.latency_s for more in ((), (BLOCKING,))]
    assert times[0] == times[1]


BLOCKING = "layout.pipeline={schedule: non_blocking}"


def test_the_session_may_register_too():
    from sim.plugins import Uses, preset

    @preset(name="of_session")
    def first(axes):
        return Uses(heads=axes, d_ff=axes)

    @preset(name="of_session")
    def again(axes):
        return Uses(heads=axes[::-1], d_ff=axes[::-1])

    assert first(("x",)) == again(("x",))
    run = simulate(load("palm540b_decode_ws2d", "layout.ffn=of_session", "engine.layers=2"))
    assert run.passes[0].lowered.program


def test_entry_points_and_modules_are_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "site/my_layouts"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from my_layouts import presets\n")
    (package / "presets.py").write_text(PRESET)
    info = tmp_path / "site/my_layouts-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: my_layouts\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[collective_sim.plugins]\nlayouts = my_layouts\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    for name in ("layouts", "my_layouts"):
        simulate(load(write(tmp_path, "", plugins=[name])))
        plugins.forget(plugin_files._loaded.pop(name))
    assert message(write(tmp_path, "", plugins=["layout"])).endswith("got 'layout'; did you mean 'layouts'?")


def test_search_and_list_know_the_names(tmp_path: Path, capsys: pytest.CaptureFixture):
    (tmp_path / "my.py").write_text(PRESET)
    from typer.testing import CliRunner

    from sim.cli import build_app

    plugin = ["--plugin", str(tmp_path / "my.py")]
    listed = CliRunner().invoke(build_app(()), ["list", "layouts", "--json", *plugin])
    assert json.loads(listed.stdout)["layouts"]["mine"] == "As weight_stationary_2d, over the last axis."
    options = "--model llama3_8b --topology tpu_v5e_2x4 --phase decode --batch 8 --layouts mine --no-plots --json"
    found = CliRunner().invoke(build_app(()), ["search", *options.split(), *plugin], catch_exceptions=False)
    assert json.loads(found.stdout)["best"]["latency"]["choices"]["ffn"] == "mine"


@pytest.mark.slow
def test_workers_load_the_same_plugins(tmp_path: Path):
    path = write(tmp_path, sweep={"workload.batch": [8, 16]})
    (tmp_path / "form.py").write_text("from sim.plugins import closed_form\n@closed_form\ndef guess(s): return 0.5\n")
    for jobs in (1, 2):
        out = tmp_path / str(jobs)
        assert call("sweep", path, "--jobs", jobs, "--out", out, "--no-plots", "--plugin", tmp_path / "form.py")[0] == 0
    assert tree(tmp_path / "1")["mine/sweep.csv"] == tree(tmp_path / "2")["mine/sweep.csv"]
    assert b"does not name" not in tree(tmp_path / "1")["mine/sweep.csv"]


def test_runs_with_a_plugin_are_equal_to_the_byte(tmp_path: Path):
    path = write(tmp_path)
    for out in ("a", "b"):
        assert call("run", path, "--out", tmp_path / out, "--no-plots", "--quiet")[0] == 0
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    assert not list(tmp_path.rglob("__pycache__"))


# --- reading back ----------------------------------------------------------------------------------------------------


def test_results_are_read_back_with_the_plugin_they_were_written_with(tmp_path: Path):
    path = write(tmp_path)
    assert call("run", path, "--out", tmp_path / "out", "--no-plots", "--quiet")[0] == 0
    for plugin in list(plugin_files._loaded.values()):
        plugins.forget(plugin)
    plugin_files._loaded.clear()
    results = tmp_path / "out/mine"
    assert call("plot", results, "breakdown")[0] == 0
    assert json.loads((results / "manifest.json").read_text())["plugins"].keys() == {str(tmp_path / "my.py")}
    (tmp_path / "my.py").write_text(PRESET + "# changed\n")
    code, said = call("plot", results, "breakdown")
    assert code == 2
    assert said.endswith(
        f"plugin {tmp_path / 'my.py'} must be as it was when the results were written; run the scenario again"
    )
    (tmp_path / "my.py").unlink()
    assert "no such plugin file" in call("plot", results, "breakdown")[1]


def test_a_changed_plugin_is_loaded_again(tmp_path: Path):
    path = write(tmp_path)
    first = simulate(load(path)).report
    (tmp_path / "my.py").write_text(PRESET.replace("axes[-1:]", "axes[:1]").replace("axes[:-1]", "axes[1:]"))
    second = simulate(load(path)).report
    assert [op.op for op in first.ops] != [op.op for op in second.ops]


# --- mistakes --------------------------------------------------------------------------------------------------------

LOADING = {
    "a syntax error": ("x = 1\ndef broken(:\n", "my.py:2: SyntaxError: invalid syntax"),
    "a failing import": ("\nimport no_such_module\n", "my.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
    "a name that is taken": (
        PRESET + "preset(name='tensor_parallel')(mine)\n",
        "my.py:7: must be a new name of a preset; this package has one, got 'tensor_parallel'",
    ),
    "an unknown collective": (
        "from sim.plugins import collective\n@collective('all_gathr', needs='routes')\ndef mine(topology, axes): ...\n",
        "my.py:2: operation must be one of",
    ),
}


@pytest.mark.parametrize("mistake", LOADING)
def test_a_plugin_that_cannot_be_loaded_is_one_line(tmp_path: Path, mistake: str):
    text, said = LOADING[mistake]
    found = message(write(tmp_path, text))
    assert found.startswith(f"{tmp_path / said.partition(':')[0]}:{said.partition(':')[2]}"), found
    assert not plugins.registered("preset")


def scheme(body: str) -> str:
    return f"from sim.plugins import Stream, residual_scheme\n@residual_scheme\ndef mine(layer, stream):\n    {body}\n"


HALF = "x, y = layer.norm(stream.x, stream.pending, 'norm'); "
WRONG_LAYERS = {
    "an exception": (scheme("return 1 / 0"), "my.py:4: ZeroDivisionError: division by zero"),
    "a sum that is not made": (
        scheme(HALF + "return Stream(x, mlp=layer.partial_attention(y))"),
        "my.py: mine: must compute on mesh {t: 4} what it computes on one chip",
    ),
    "a part of the stream": (scheme(HALF + "return Stream(layer.flow.local_slice(y, 'E', ('t',)))"), "my.py:4: "),
}


@pytest.mark.parametrize("mistake", WRONG_LAYERS)
def test_a_residual_scheme_is_proven_when_first_used(tmp_path: Path, mistake: str):
    text, said = WRONG_LAYERS[mistake]
    layout = {"ffn": "tensor_parallel", "residual": "mine"}
    found = message(write(tmp_path, text, topology="dgx_h100", layout=layout))
    assert str(tmp_path / said) in found, found


def test_a_preset_is_proven_when_first_used(tmp_path: Path):
    twice = PRESET.replace("stream=", "batch=axes[:1], stream=")
    assert message(write(tmp_path, twice)).startswith(str(tmp_path / "my.py"))


BRUCK = (Path(__file__).parents[2] / "scenarios/examples/bruck.py").read_text()


def test_a_collective_is_replayed_when_first_used(tmp_path: Path):
    (tmp_path / "my.py").write_text(BRUCK.replace("origin=(to.chips + block) % to.n", "origin=to.chips"))
    options = "--plugin", tmp_path / "my.py", "--topology", "mi300x", "--algorithm", "bruck", "--size", "1MiB"
    code, said = call("collective", "all_gather", *options)
    assert code == 2
    assert said.startswith(f"{tmp_path / 'my.py'}: algorithm bruck on mi300x: must carry out all_gather: ")


def test_a_bound_is_never_above_the_simulated_time(tmp_path: Path):
    text = PRESET + "from sim.plugins import closed_form\n@closed_form(is_bound=True)\ndef floor(scenario): return {}\n"
    simulate(load(write(tmp_path, text.format("1e-9"))))
    found = message(write(tmp_path, text.format("9.0")))
    assert found.startswith(f"{tmp_path / 'my.py'}: floor: a bound must be at most the simulated latency")
    assert "must return seconds above 0" in message(write(tmp_path, text.format("-1")))
    assert ":9: TypeError" in message(write(tmp_path, text.format("1 + None")))


SCHEDULES = {
    "a stage is left out": (
        "for r in range(plan.count): plan.requests.complete(r, plan.requests.admit(r, free)[0])",
        "must run request 0, micro-batch 0 once on stage 0",
    ),
    "a stage does not wait": (
        "\n    for r in range(plan.count):\n        known = plan.requests.admit(r, free)\n"
        "        ends = [plan.builder.run(stage, r, 0, known[i]).end for i, stage in enumerate(plan.builder.stages)]\n"
        "        plan.requests.complete(r, (ends[-1],))",
        "must begin request 0 on stage 1 after it has left stage 0",
    ),
}


@pytest.mark.parametrize("mistake", SCHEDULES)
def test_a_pipeline_schedule_is_checked_when_first_used(tmp_path: Path, mistake: str):
    body, said = SCHEDULES[mistake]
    text = "from sim.plugins import pipeline_schedule\n@pipeline_schedule\ndef mine(plan):\n"
    text += f"    free = [()] * len(plan.builder.stages)\n    {body}\n"
    layout = {"ffn": "tensor_parallel", "mesh": {"tensor": 2, "pipeline": 2}, "pipeline": {"schedule": "mine"}}
    found = message(write(tmp_path, text, topology="dgx_h100", layout=layout))
    assert found.endswith(f"my.py: mine: {said}"), found


def test_a_section_must_be_tables_and_lines(tmp_path: Path):
    text = PRESET + "from sim.plugins import report\n@report\ndef summary(report): return ['text']\n"
    code, said = call("run", write(tmp_path, text), "--out", tmp_path / "out", "--no-plots")
    assert code == 2
    assert said.startswith(f"{tmp_path / 'my.py'}: summary: a report must yield Table and Line of sim.plugins")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["mi.py"], "plugins[0]: no such plugin file, got 'mi.py'; did you mean 'my.py'?"),
        (["no_such_module"], "must be a .py file, an entry point or an installed module, got 'no_such_module'"),
        ([1], "plugins[0]: must be text"),
        ("my.py", "plugins: must be a list"),
    ],
)
def test_a_plugin_that_is_not_there_is_one_line(tmp_path: Path, given: object, said: str):
    assert said in message(write(tmp_path, plugins=given))


def test_another_scenario_does_not_use_the_plugin(tmp_path: Path):
    load(write(tmp_path))
    load("palm540b_decode_ws2d", "layout.ffn=mine", "presets.mine={heads: [x, y, z], d_ff: [x, y, z]}")
    with pytest.raises(InputError, match="is of a plugin that the scenario does not name"):
        files.scenario("palm540b_decode_ws2d", ["layout.ffn=mine"])
