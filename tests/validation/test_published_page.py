"""The page of scenarios/published is what `sim validate --summary` writes today."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.report.present.validation_summary import HEADING, format_section
from sim.specs import load
from sim.studies.validate.validate import validate

PAGE = Path(__file__).parents[2] / "scenarios/published/README.md"


def test_the_page_has_a_section_for_each_suite():
    text = PAGE.read_text(encoding="utf-8")
    assert text.startswith(HEADING)
    assert [line[3:] for line in text.splitlines() if line.startswith("## ")] == list(load.shipped("suite"))


@pytest.mark.parametrize("name", load.shipped("suite"))
def test_the_section_of_a_suite_is_up_to_date(name: str):
    """`sim validate --no-plots --summary scenarios/published/README.md` writes the page anew."""
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")[1:]
    own = next(text for text in sections if text.startswith(f"{name}\n"))
    assert f"## {own}".rstrip() == format_section(validate(name)).rstrip()
