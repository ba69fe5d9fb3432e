"""Every suite passes, and the page of scenarios/published is what `sim validate --summary` writes today."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.selection import slow_if
from support.validations import sample, validation

from sim.report.present.validation_summary import HEADING, format_section
from sim.specs import load

PAGE = Path(__file__).parents[2] / "scenarios/published/README.md"


def test_the_page_has_a_section_for_each_suite():
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEADING)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(load.shipped("suite"))


@pytest.mark.parametrize("name", load.shipped("suite"))
def test_rows_spaced_over_a_suite_are_within_its_worst_tolerance(name: str, tmp_path: Path):
    found = sample(name, tmp_path, count=8)
    assert len(found.outcomes) >= 8
    for outcome in found.gated:
        assert abs(outcome.error) <= found.suite.tolerance.worst, outcome.case_id


@pytest.mark.parametrize("name", slow_if(load.shipped("suite"), "energonai", "ladder", "nccl"))
def test_a_suite_passes(name: str):
    assert validation(name).passes


@pytest.mark.parametrize("name", slow_if(load.shipped("suite"), "energonai", "ladder", "nccl"))
def test_the_section_of_a_suite_is_up_to_date(name: str):
    """`sim validate --no-plots --summary scenarios/published/README.md` writes the page anew."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    own = next(text for text in sections if text.startswith(f"{name}\n"))
    assert f"## {own}".rstrip() == format_section(validation(name)).rstrip()
