"""The modules of `sim`, and what each imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

MODULES = sorted((ROOT / "sim").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Returns the modules that a file imports when it runs: not those for annotations alone."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found
