"""Order of packages (contracts in pyproject.toml, checked by import-linter), and where heavy libraries are imported.

To see a contract fail: add `import sim.cli` to any module of `sim/topology` and run `lint-imports`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.modules import MODULES, ROOT, imports

pytestmark = pytest.mark.every_case

ONLY_IN = {
    "simpy": ("engine/reference.py",),
    "networkx": ("topology/",),
    "matplotlib": ("plots/",),
    "plotly": (),
    "numba": ("engine/kernel.py",),
}


def broken_contracts(root: Path) -> str:
    """Returns what import-linter says of the checkout `root`; empty where all contracts are kept."""
    command = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    found = subprocess.run(
        [sys.executable, "-c", command], cwd=root, env={}, capture_output=True, text=True, check=False
    )
    return found.stdout + found.stderr if found.returncode else ""


def test_no_import_runs_upward_and_none_in_a_circle():
    assert broken_contracts(ROOT) == ""


def test_an_import_upward_breaks_the_contract(tmp_path):
    shutil.copytree(ROOT / "sim", tmp_path / "sim", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "sim" / "topology" / "torus.py").open("a", encoding="utf-8") as file:
        file.write("\nimport sim.collectives.emit\n")
    assert "sim.topology is not allowed to import sim.collectives" in broken_contracts(tmp_path)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_where_they_belong(path: Path):
    for package, places in ONLY_IN.items():
        if any(name.split(".")[0] == package for name in imports(path)):
            assert str(path.relative_to(ROOT / "sim")).startswith(places), f"{package} in {path.name}"
