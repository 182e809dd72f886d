"""The documentation as a site: every page is on it, every public name, and it is built without a warning."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import silofl

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
NOT_PAGES = {"index", "../CITATION"}


def test_every_page_has_its_place() -> None:
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", (DOCS / "index.md").read_text(), re.DOTALL)
    listed = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    pages = {path.stem for path in DOCS.glob("*.md")} | {f"../{path.stem}" for path in ROOT.glob("*.md")}
    assert sorted(listed) == sorted({*pages, "../benchmarks/README"} - NOT_PAGES)


def test_every_public_name_is_in_the_reference() -> None:
    told = set(
        re.findall(r"^\.\. auto\w+:: silofl\.(\w+)$", (DOCS / "reference.md").read_text(), re.MULTILINE)
    )
    assert told == {name for name in silofl.__all__ if not name.endswith(("Error", "__"))} | {"errors"}


@pytest.mark.long
@pytest.mark.timeout(200)
def test_the_site_is_built(tmp_path: Path) -> None:
    """Without a warning, and no page asks another host for anything."""
    for library in ("sphinx", "myst_parser", "furo"):
        pytest.importorskip(library, reason="the extra docs is not installed: make test-long does so")
    line = [sys.executable, "-m", "sphinx", "-q", "-W", "-b", "html", "-c", "docs/site", ".", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "index.html").is_file()
    pages = [path.read_text() for path in tmp_path.rglob("*.html")]
    assert len(pages) > 20
    asked = re.compile(r"<(?:script|img|iframe|link)[^>]+(?:src|href)=\"https?://[^\"]*", re.IGNORECASE)
    assert not [found for page in pages for found in asked.findall(page)]
    reference = (tmp_path / "docs" / "reference.html").read_text()
    for name in silofl.__all__:
        assert (
            f'id="silofl.{name}"' in reference
            or f'id="silofl.errors.{name}"' in reference
            or name == "__version__"
        )
