"""The commands of tests/README.md run: pytest's select tests, and the rest does what it says."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", (ROOT / "tests/README.md").read_text(encoding="utf-8"), flags=re.S)
    for line in block.splitlines()
]


def output_of(command: str, folder: Path) -> str:
    """Standard output of a command that must succeed; files go to a folder of its own."""
    program, *arguments = shlex.split(command.replace("out/", f"{folder}/"))
    modules = {"pytest": ["-m", "pytest"], "python": []}
    result = subprocess.run(
        [sys.executable, *modules[program], *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_tour_passes(tmp_path: Path):
    assert COMMANDS[0] == "pytest tests/test_tour.py"
    assert "5 passed" in output_of(f"{COMMANDS[0]} -n 0 -v", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [command for command in COMMANDS[1:] if "tests/" in command and "pytest" in command]
)
def test_a_selection_has_tests(command: str, tmp_path: Path):
    """They are collected only."""
    assert "collected" in output_of(f"{command} -n 0 --collect-only -v", tmp_path)


@pytest.mark.slow
def test_results_of_scenarios_are_written_and_compared(tmp_path: Path):
    write, compare = (command for command in COMMANDS if "shipped_reports" in command)
    assert "pmep_gpt3_host" in output_of(write, tmp_path)
    assert output_of(compare, tmp_path) == "equal to the byte\n"


def test_a_figure_that_moved_is_told_from_what_to_what(tmp_path: Path):
    from support.shipped_reports import differences

    for folder, step_s, bubble in (("before", 0.02, 1), ("after", 0.021, 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "run.json").write_text(f'{{"simulated": {{"step_s": {step_s}, "mfu": 0.5}}}}')
        (tmp_path / folder / "sweep.csv").write_text(f"layout,chips,bubble\n2D,64,{bubble}\n1D,64,3\n")
    (tmp_path / "after/new.json").write_text("{}")
    assert list(differences(tmp_path / "before", tmp_path / "after")) == [
        f"new: only in {tmp_path / 'after'}",
        "run: simulated.step_s: 0.02 -> 0.021 (+5.00%)",
        'sweep: 2D: bubble: "1" -> "2" (+100.00%)',
    ]
