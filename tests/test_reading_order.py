"""The two reading lists of docs/architecture.md: short enough, and each file is named by an earlier one."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
MOST = {"One update's way": 12, "A returning rank": 15}
LONGEST = 330
"""Lines of a file of the way, at most: it is read as a whole."""


def listed(title: str) -> list[Path]:
    section = TEXT.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    lines = re.findall(r"^(\d+)\. `(silofl/[\w/]+\.py)`: \w", section, re.MULTILINE)
    assert [int(number) for number, _ in lines] == list(range(1, len(lines) + 1))
    return [ROOT / name for _, name in lines]


def named_by(path: Path) -> set[Path]:
    """Files of ours that a file imports, or names in the docstring at its head."""
    tree = ast.parse(path.read_text())
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    files = {ROOT / f"{name.replace('.', '/')}.py" for name in names}
    told = re.findall(r"`([\w/]+\.py)`", ast.get_docstring(tree) or "")
    near = {folder / name for name in told for folder in (path.parent, ROOT / "silofl")}
    return {one for one in files | near if one.exists()}


@pytest.mark.parametrize("title", MOST)
def test_a_way_is_short(title: str) -> None:
    way = listed(title)
    assert 1 < len(set(way)) == len(way) <= MOST[title]
    lengths = {str(path): len(path.read_text().splitlines()) for path in way}
    assert max(lengths.values()) <= LONGEST, lengths


@pytest.mark.parametrize("title", MOST)
def test_each_file_of_a_way_is_named_by_an_earlier_one(title: str) -> None:
    first, *others = listed(title)
    known = named_by(first)
    for path in others:
        assert path in known, f"nothing before {path.relative_to(ROOT)} names it"
        known |= named_by(path)


@pytest.mark.covering(0)
@pytest.mark.parametrize("title", MOST)
def test_a_way_names_files_that_are_there(title: str) -> None:
    """Those beside it, too: each is one of ours, by the end of its path."""
    section = TEXT.split(f"### {title}\n", 1)[1].split("\n#", 1)[0]
    everything = [str(path.relative_to(ROOT)) for path in ROOT.glob("**/*.py") if ".venv" not in path.parts]
    for name in re.findall(r"`([\w/]+\.py)`", section):
        assert any(one.endswith(f"/{name}") or one == name for one in everything), name
