"""Matplotlib's SVG as a part of a page: small, without styles of its own, coloured by the page's CSS."""

from __future__ import annotations

import re
from xml.etree import ElementTree

ROLES = (
    *("ink", "paper", "muted", "grid", "band", "bad", "good"),
    *(f"s{number}" for number in range(6)),
)
"""What is drawn, by whose name the page's CSS has colours, light and dark."""
_CODES = {role: f"#0000{number + 16:02x}" for number, role in enumerate(ROLES)}
_BY_CODE = {code: role for role, code in _CODES.items()}
_NUMBER = re.compile(r"-?\d+\.\d+")
_KEPT = ("stroke-width", "stroke-dasharray", "stroke-dashoffset", "stroke-linecap", "text-anchor")
_MOST_UNITS = 2
"""Decimals of a coordinate, in 1/72 inch."""


def colour(role: str) -> str:
    """The colour that Matplotlib is to draw with, which stands for a role."""
    return _CODES[role]


def inline(text: str, key: str, label: str) -> str:
    """The SVG element of a figure, as HTML takes it.

    Args:
        text: what Matplotlib's SVG backend wrote, text as text.
        key: what names in it begin with, unlike those of other figures of the page.
        label: what it shows, for those who do not see it.
    """
    source = ElementTree.fromstring(text)
    root = _taken(source, key)
    for name in [*root.attrib]:
        if name != "viewBox":
            del root.attrib[name]
    root.attrib |= {"role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _taken(source: ElementTree.Element, key: str) -> ElementTree.Element:
    """The element with what it has inside, without namespaces, metadata and groups that only have names."""
    taken = ElementTree.Element(_local(source.tag), _attributes(source, key))
    taken.text, taken.tail = (source.text or "").strip() or None, None
    for child in source:
        name = _local(child.tag)
        if name in ("metadata", "style"):
            continue
        one = _taken(child, key)
        if name == "path" and one.attrib.get("class") == "f-none":  # backgrounds, which the page has
            continue
        if (name == "g" and not one.attrib) or (name == "defs" and not len(one)):
            taken.extend(one)
        else:
            taken.append(one)
    return taken


def _attributes(source: ElementTree.Element, key: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in source.attrib.items():
        local = _local(name)
        if local == "style":
            found |= _styled(value)
        elif local == "href":
            found["href"] = f"#{key}-{value.removeprefix('#')}"
        elif local == "id" and _local(source.tag) != "g":
            found["id"] = f"{key}-{value}"
        elif local in ("d", "x", "y", "transform", "viewBox"):
            found[local] = " ".join(_NUMBER.sub(_rounded, value).split())
    return found


def _styled(text: str) -> dict[str, str]:
    """Presentation attributes and a class: a page without inline styles can forbid them."""
    pairs = (one.split(":", 1) for one in text.split(";") if ":" in one)
    parts = {name.strip(): value.strip() for name, value in pairs}
    found = {name: _NUMBER.sub(_rounded, parts[name]) for name in _KEPT if name in parts}
    classes = []
    for name, letter in (("fill", "f"), ("stroke", "l")):
        if name in parts:
            classes.append(f"{letter}-{_BY_CODE.get(parts[name], parts[name])}")
    if "font" in parts:
        classes.append("strong" if "bold" in parts["font"] or "700" in parts["font"] else "text")
    return found | ({"class": " ".join(classes)} if classes else {})


def _rounded(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.{_MOST_UNITS}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _local(name: str) -> str:
    return name.rsplit("}", 1)[-1]
