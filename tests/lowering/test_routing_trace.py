"""Choices of experts that are read from a file."""

from pathlib import Path

import pytest
from support.served_mixture import mixture

from sim.errors import InputError
from sim.simulate.forward_pass import lower_pass


@pytest.mark.parametrize(
    ("text", "number", "got"),
    [
        ("e0,e1\n0,1\n", 1, "e0,e1"),
        ("0,1\n\n2,x\n", 3, "2,x"),
        ("0,1\n1.0,2\n", 2, "1.0,2"),
        ("0,1\n3,\n", 2, "3,"),
        ("0,1\n# end\n", 2, "# end"),
        ("0,1\n-1,2\n", 2, "-1,2"),
        ("0,1\n2,2\n", 2, "2,2"),
        ("0,1\n2,32\n", 2, "2,32"),
    ],
)
def test_a_wrong_line_of_a_trace_is_named_by_its_number(text: str, number: int, got: str, tmp_path: Path):
    trace = tmp_path / "trace.csv"
    trace.write_text(text, encoding="utf-8")
    rule = rf"trace.csv: line {number}: must have 2 different experts from 0 to 31, got '{got}'"
    with pytest.raises(InputError, match=rule):
        lower_pass(mixture(f"workload.routing={{trace: {trace}}}"))
