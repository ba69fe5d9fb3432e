"""Every command in README runs as printed, and the set-up lines are the ones CI runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sim.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line and not line.startswith("#")
]
COMMANDS = [line for line in BASH if line.startswith("sim ")]


def test_readme_opens_with_the_two_set_up_lines():
    run, test = BASH[:2]
    assert run.startswith("python3 -m venv .venv && ")
    assert run.endswith("sim run scenarios/palm540b_decode_ws2d.yaml")
    assert test.startswith("python3 -m venv .venv && ")
    assert test.endswith("pytest")
    assert BASH[2:] == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_command_runs(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", shlex.split(command))
    with pytest.raises(SystemExit) as stop:
        main()
    output = capsys.readouterr()
    assert stop.value.code in (0, None), output.err
    assert output.out


def test_the_scenario_shown_is_the_one_shipped():
    (shown,) = re.findall(r"```yaml\n(.*?)```", README, flags=re.S)
    shipped = yaml.safe_load((ROOT / "scenarios/palm540b_decode_ws2d.yaml").read_text(encoding="utf-8"))
    assert yaml.safe_load(shown).items() <= shipped.items()
