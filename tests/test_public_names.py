"""Every public name has a docstring, and no file outgrows its room."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*ROOT.glob("silofl/**/*.py"), *ROOT.glob("kernels/**/*.py")])
MOST_LINES = 400


def test_every_public_name_is_documented() -> None:
    missing = {str(path.relative_to(ROOT)): undocumented(path) for path in FILES}
    assert not {name: names for name, names in missing.items() if names}


def undocumented(path: Path) -> list[str]:
    """Public classes, their methods and functions without a docstring, and the module itself."""
    tree = ast.parse(path.read_text())
    missing = [] if ast.get_docstring(tree) else ["module"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            missing += [node.name] if not ast.get_docstring(node) else []
            missing += [f"{node.name}.{name}" for name in without(node.body)]
    return missing + without(tree.body)


def without(body: list[ast.stmt]) -> list[str]:
    """Public functions without a docstring."""
    functions = [one for one in body if isinstance(one, ast.FunctionDef) and not one.name.startswith("_")]
    return [one.name for one in functions if not ast.get_docstring(one)]


def test_no_file_is_two_rooms() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in FILES}
    assert not {name: length for name, length in lengths.items() if length > MOST_LINES}
