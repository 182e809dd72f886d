"""The documentation as a site, by `make docs`: its pages are the Markdown files of the repository."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

import silofl  # noqa: E402

project, author = "silofl", "the silofl maintainers"
copyright = author
version = release = silofl.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
default_role = "code"
smartquotes = False
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/*.md",
    "benchmarks/*.md",
]
source_suffix = {".md": "markdown"}
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True

html_theme = "furo"
html_title = f"silofl {version}"
html_copy_source = False
html_extra_path = ["extra"]
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "tango", "monokai"


def examples(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Indented blocks of a docstring are code: the paragraph before them is told so."""
    for k in range(len(lines) - 1, 0, -1):
        begins = lines[k].startswith("    ") and not lines[k - 1].strip()
        before = next((line for line in reversed(lines[:k]) if line.strip()), "")
        if begins and not before.startswith((" ", ":", "..")):
            lines[k:k] = ["::", ""]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", examples)
