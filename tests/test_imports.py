"""The order of modules: each imports only from above, and heavy packages stay where they belong."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sim"

ORDER = [
    "terminal",
    "errors",
    "lengths",
    "scratch",
    "units",
    "uses",
    "specs",
    "load",
    "schema",
    "basis",
    "closed_form",
    "topology",
    "placement",
    "program",
    "collectives",
    "choice",
    "sharding",
    "costs",
    "layouts",
    "looped",
    "lowering",
    "pipeline",
    "lower",
    "execute",
    "trace",
    "kernel",
    "compiled",
    "engine",
    "slowing",
    "order",
    "periodic",
    "trace_file",
    "perturb",
    "report",
    "consistency",
    "bench",
    "communication",
    "grouped",
    "uneven",
    "plots",
    "export",
    "passes",
    "steps",
    "folded",
    "run",
    "saved",
    "own_predictions",
    "csv_rows",
    "csv_templates",
    "suite",
    "measurements",
    "orderings",
    "validate",
    "calibrate",
    "explain",
    "sensitivity",
    "sweep",
    "search",
    "replay",
    "html",
    "pictures",
    "earlier",
    "outputs",
    "api",
    "listing",
    "cli",
    "__main__",
]
"""Later may import from earlier. A package is one entry; inside it any order goes."""

ONLY_IN = {
    "simpy": ("engine.py",),
    "networkx": ("topology/",),
    "matplotlib": ("plots/",),
    "plotly": (),
    "numba": ("kernel.py",),
}


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def entry(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_above(path: Path):
    me = entry(path)
    if me == "__init__":
        return
    used = {name.split(".")[1] for name in imports(path) if name.startswith("sim.")} - {me, "__version__"}
    below = {name for name in used if name in ORDER and ORDER.index(name) >= ORDER.index(me)}
    assert not below, f"{me} imports {sorted(below)}, which stand below it"


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_stay_where_they_belong(path: Path):
    for package, places in ONLY_IN.items():
        if any(name.split(".")[0] == package for name in imports(path)):
            assert str(path.relative_to(ROOT)).startswith(places), f"{package} in {path.name}"


def test_every_module_has_its_place_in_the_order():
    assert {entry(path) for path in modules()} - {"__init__"} == set(ORDER)


def test_the_closed_form_shares_nothing_with_what_it_predicts():
    for path in (ROOT / "closed_form").glob("*.py"):
        used = {name.split(".")[1] for name in imports(path) if name.startswith("sim.")}
        assert used <= {"errors", "units", "uses", "specs", "closed_form"}


MACHINE_FILES, MACHINE_KINDS = {"TorusSpec", "SwitchSpec", "GraphSpec"}, {"torus", "switch", "graph"}

BUILDERS = {
    "topology/__init__.py": "hands the file of each kind to the builder of that kind",
    "topology/torus.py": "builds a TorusSpec",
    "topology/switch.py": "builds a SwitchSpec",
    "topology/graph.py": "builds a GraphSpec",
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


def names(path: Path) -> set[str]:
    tree = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {node.id for node in tree if isinstance(node, ast.Name)}
    found |= {node.attr for node in tree if isinstance(node, ast.Attribute)}
    return found | {name.split(".")[-1] for name in imports(path)}


def kinds_compared(path: Path) -> list[int]:
    """Lines that compare a `.kind` with a kind of machine."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Match)
        and any(isinstance(part, ast.Attribute) and part.attr == "kind" for part in ast.walk(node))
        and any(isinstance(part, ast.Constant) and part.value in MACHINE_KINDS for part in ast.walk(node))
    ]


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_asks_what_a_machine_has_and_not_its_kind(path: Path):
    """Files answer `lines`, `line_links`, `chip_count`; built machines answer `has_lines`, `has_ports`."""
    if "specs" not in path.relative_to(ROOT).parts and place(path) not in BUILDERS:
        assert not names(path) & MACHINE_FILES
    if place(path) not in ASKS_FOR_KIND:
        assert not kinds_compared(path)


def test_every_module_that_may_ask_for_the_kind_does():
    every = {place(path): path for path in modules()}
    assert all(names(every[name]) & MACHINE_FILES for name in BUILDERS)
    assert all(len(kinds_compared(every[name])) == 2 for name in ASKS_FOR_KIND)  # has_lines and has_ports
