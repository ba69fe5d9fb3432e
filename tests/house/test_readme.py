"""Every command in a README runs as printed, links lead somewhere, and the set-up lines are the ones CI runs."""

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml

from sim.cli import main
from sim.specs import load
from sim.topology import build

pytestmark = pytest.mark.every_case

ROOT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted([ROOT / "README.md", *(ROOT / "sim").rglob("README.md"), *ROOT.glob("[st]*/**/README.md")])
}
README, SIM, STUDIES = PAGES["README.md"], PAGES["sim/README.md"], PAGES["sim/studies/README.md"]
SCENARIOS, TOPOLOGIES = PAGES["scenarios/README.md"], PAGES["topologies/README.md"]


def fenced(language: str, page: str) -> list[str]:
    """The blocks of a language on a page."""
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.S)


SLOW = re.compile(r"^sim (validate( nccl.*)?|calibrate .*|search .*|sweep .*)$", flags=re.M)
"""Commands that take ten seconds or more: whole suites, fits to them, searches and sweeps."""
BLOCKS = [
    pytest.param(
        [line for line in block.splitlines() if line and not line.startswith("#")],
        id=f"{page} {block[:60]}",
        marks=[pytest.mark.release] if SLOW.search(block) else [],
    )
    for page, text in PAGES.items()
    for block in fenced("bash", text)
    if block.startswith("sim ")
]


def test_readme_opens_with_the_two_set_up_lines():
    run, test = fenced("bash", README)[0].splitlines()
    assert run.startswith("python3 -m venv .venv && ")
    assert run.endswith("sim run scenarios/palm540b_decode_ws2d.yaml")
    assert test.startswith("python3 -m venv .venv && ")
    assert test.endswith("pytest -n auto")


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_to_a_file_and_a_heading(page: str):
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[page]):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.M)
            assert anchor in {re.sub(r"[^a-z0-9 _-]", "", each.lower()).replace(" ", "-") for each in headings}, target


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([a-z0-9_/]+\.py)`", SIM))))
def test_files_that_are_named_exist(name: str):
    assert (ROOT / "sim" / name).exists() or (ROOT / name).exists()


def test_the_table_of_fields_is_that_of_the_specs():
    from support.field_tables import BLOCK, table

    assert BLOCK.search(SCENARIOS).group() == table(), "PYTHONPATH=tests python -m support.field_tables"


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_commands_run(block: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    """Those of a block after each other, in one folder."""
    monkeypatch.chdir(tmp_path)
    for command in block:
        monkeypatch.setattr("sys.argv", shlex.split(command))
        with pytest.raises(SystemExit) as stop:
            main()
        output = capsys.readouterr()
        assert stop.value.code in (0, None), output.err
        assert output.out
    assert [path.name for path in tmp_path.iterdir()] in ([], ["out"])  # which a clone ignores


def test_what_the_text_quotes_of_a_command_is_printed(monkeypatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    """`34 % is what software takes to start messages and 10 % is link latency, so links of ... save only 6 %`."""
    starts, share, saved = re.search(
        r"(\d+) % is what software takes to start messages and (\d+) % is link latency, "
        r"so links of endless bandwidth would save only (\d+) %",
        " ".join(STUDIES.split()),
    ).groups()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["sim", "run", "palm540b_decode_ws2d", "--critical-path", "--no-plots"])
    with pytest.raises(SystemExit):
        main()
    rows = {line.split("  ")[0]: line for line in capsys.readouterr().out.splitlines()}
    found = ("message startup", starts), ("link latency", share), ("link bandwidth without limit", saved)
    for name, quoted in found:
        (percent,) = re.findall(r"([\d.]+)%", rows[name])
        assert round(float(percent)) == int(quoted)


def test_the_scenario_shown_is_the_one_shipped():
    shown, *_ = fenced("yaml", README)
    shipped = yaml.safe_load((ROOT / "scenarios/palm540b_decode_ws2d.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(shown).items() <= shipped.items()


def test_the_machine_shown_is_oversubscribed_as_it_says(tmp_path: Path):
    *_, shown = fenced("yaml", TOPOLOGIES)
    (tmp_path / "my_cluster.yaml").write_text(shown)
    built = build(*load.machine(str(tmp_path / "my_cluster.yaml")))
    down, up = (
        sum(link.cables for link in built.links if re.match(name, link.name))
        for name in ("gpu[0-9]+->leaf0#", "leaf0->spine")
    )
    assert f"{down} links down from a leaf, {up} up" in shown


def test_the_machines_shown_have_a_fitted_stack(tmp_path: Path):
    """A copied example must not run on a stack that costs nothing."""
    torus, *_ = fenced("yaml", TOPOLOGIES)
    (tmp_path / "mine.yaml").write_text(torus)
    box = " ".join(re.search(r"`({name: box,.*?}})`", TOPOLOGIES, flags=re.S)[1].split())
    (tmp_path / "box.yaml").write_text(box)
    for name in ("mine", "box"):
        _, stack = load.machine(str(tmp_path / f"{name}.yaml"), [])
        assert stack.fitted_on


def test_the_functions_run_as_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from sim import api

    monkeypatch.chdir(tmp_path)
    (code,) = fenced("python", README)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert (tmp_path / "out/report.html").stat().st_size > 10**6
    assert (tmp_path / "out/timeline.png").stat().st_size > 10**4
    assert {*api.__all__} == {name for name in names if hasattr(api, name) and not name.startswith("_")} | {
        "search",
        "simulate_together",
        "validate",
    }
    assert len(names["links"]) == 64 * 6
    assert len(names["schemes"].rows) == 7
    assert names["run"]._repr_html_() != names["run"].report._repr_html_()
    assert '<td style="text-align:left">MFU</td>' in names["run"]._repr_html_()
    assert names["formula"]._repr_html_().startswith("<table>")


def test_the_mesh_and_uses_shown_run():
    from sim.simulate.run import run

    shown, *_ = fenced("yaml", SCENARIOS)
    fields = [f"{key}={json.dumps(value)}" for key, value in yaml.safe_load(shown).items()]
    made = run(load.scenario("llama31_405b_tp16_ladder", [*fields, "engine.layers=2"]))
    assert {"all_gather(gpu) residual", "reduce_scatter(box) wi"} <= {each.op for each in made.report.ops}


def test_the_layout_written_in_extend_runs_and_computes_the_same():
    import numpy as np
    from support.forward_passes import run_both

    from sim.simulate.run import run
    from sim.specs import load, plugins, uses

    name = "weight_stationary_last_axis"
    (code,) = fenced("python", SIM)
    assert code.count("\n") < 40
    try:
        exec(compile(code, "README.md", "exec"), {})
        for logits, _, want in run_both(uses.PRESETS[name], (2, 4, 2), attention="batch", form="one_way"):
            np.testing.assert_allclose(logits, want, rtol=1e-9, atol=1e-9)
        made = run(load.scenario("palm540b_decode_ws2d", [f"layout.ffn={name}", "engine.layers=2"]))
    finally:
        plugins.forget(plugins.SESSION)
    assert made.report.simulated.latency_s > 0
    form = made.report.closed_form  # the paper has none, the ledger of the uses has
    assert form is not None
    assert form.is_exact
    assert form.detailed_latency_s == pytest.approx(made.report.simulated.latency_s, rel=1e-6)
