"""Every suite passes, and the page of scenarios/published is what `sim validate --summary` writes today."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.validations import sample, validation

from sim.report.present.validation_summary import HEADING, format_section
from sim.specs import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "scenarios/published/README.md"


def test_the_page_has_a_section_for_each_suite():
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEADING)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(load.shipped("suite"))


@pytest.mark.slow
@pytest.mark.parametrize("name", load.shipped("suite"))
def test_rows_spaced_over_a_suite_are_within_its_worst_tolerance(name: str, tmp_path: Path):
    found = sample(name, tmp_path, count=8)
    assert found.gated
    for outcome in found.gated:
        assert abs(outcome.error) <= found.suite.tolerance.worst, outcome.case_id


@pytest.mark.slow
@pytest.mark.every_case
@pytest.mark.parametrize("name", load.shipped("suite"))
def test_a_suite_passes(name: str):
    assert validation(name).passes


@pytest.mark.slow
@pytest.mark.every_case
@pytest.mark.parametrize("name", load.shipped("suite"))
def test_the_section_of_a_suite_is_up_to_date(name: str):
    """`sim validate --no-plots --summary scenarios/published/README.md` writes the page anew."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    own = next(text for text in sections if text.startswith(f"{name}\n"))
    assert f"## {own}".rstrip() == format_section(validation(name)).rstrip()


def figures(suite: str, model: str) -> list[str]:
    """Measurements, median error, nine in ten and worst of a model, as the page has them."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {suite}\n")[1].split("\n## ")[0]
    row = next(line for line in section.splitlines() if line.startswith(f"| {model} |"))
    return [cell.strip().replace("%", " %") for cell in row.split("|")[2:6]]


@pytest.mark.parametrize(
    ("suite", "what"),
    [("pope", "latencies and MFUs"), ("energonai", "latencies and rates of it, FasterTransformer and gpt-fast")],
)
def test_the_first_page_says_the_same(suite: str, what: str):
    count, median, _, worst = figures(suite, "simulated")
    assert f"| {count} {what}: median error {median}, worst {worst} |" in (ROOT / "README.md").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("model", ["simulated", "closed form, per operation", "closed form, the paper's"])
def test_the_page_of_studies_says_the_same(model: str):
    count, *errors = figures("pope", model)
    text = (ROOT / "sim/studies/README.md").read_text(encoding="utf-8")
    assert f"| {model} | {' | '.join(errors)} |" in text
    assert f"| {count} gated measurements, of " in text
