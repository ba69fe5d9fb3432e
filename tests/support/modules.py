"""The modules of `sim`, and what each imports."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]

MODULES = sorted((ROOT / "sim").rglob("*.py"))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module}
    return found
