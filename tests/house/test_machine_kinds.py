"""Machines are asked what they have; the kind of a machine is asked where its file is built, and nowhere else."""

import ast
from pathlib import Path

import pytest
from support.modules import MODULES, ROOT

pytestmark = pytest.mark.every_case

MACHINE_FILES, MACHINE_KINDS = {"TorusSpec", "SwitchSpec", "GraphSpec"}, {"torus", "switch", "graph"}

BUILDERS = {
    "topology/__init__.py": "hands the file of each kind to the builder of that kind",
    "topology/torus.py": "builds a TorusSpec",
    "topology/switch.py": "builds a SwitchSpec",
    "topology/graph.py": "builds a GraphSpec",
    "topology/odd_links.py": "builds a GraphSpec without the links that would be bottlenecks",
    "topology/bundles.py": "joins the links of a GraphSpec for its builder",
    "topology/ports.py": "checks the ports that a GraphSpec counts, for its builder",
}
"""Modules outside `specs` that may name the model of one kind of machine file, and why."""

ASKS_FOR_KIND = {
    "topology/graph.py": "`Topology.has_lines` and `Topology.has_ports`, which all others ask instead",
}
"""Modules that may compare the kind of a machine, and why."""


def place(path: Path) -> str:
    return "/".join(path.parts[-2:])


def names_in(path: Path) -> set[str]:
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {node.id for node in tree if isinstance(node, ast.Name)}
    found |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
    return found | {alias.name for node in tree if isinstance(node, ast.ImportFrom) for alias in node.names}


def kinds_compared(path: Path) -> list[int]:
    """Lines that compare a `.kind` with a kind of machine."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Match)
        and any(isinstance(part, ast.Attribute) and part.attr == "kind" for part in ast.walk(node))
        and any(isinstance(part, ast.Constant) and part.value in MACHINE_KINDS for part in ast.walk(node))
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_asks_what_a_machine_has_and_not_its_kind(path: Path):
    """Files answer `lines`, `line_links`, `chip_count`; built machines answer `has_lines`, `has_ports`."""
    if "specs" not in path.relative_to(ROOT / "sim").parts and place(path) not in BUILDERS:
        assert not names_in(path) & MACHINE_FILES
    if place(path) not in ASKS_FOR_KIND:
        assert not kinds_compared(path)


def test_every_module_that_may_ask_for_the_kind_does():
    every = {place(path): path for path in MODULES}
    assert all(names_in(every[name]) & MACHINE_FILES for name in BUILDERS)
    assert all(len(kinds_compared(every[name])) == 2 for name in ASKS_FOR_KIND)  # has_lines and has_ports
