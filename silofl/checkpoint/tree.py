"""A silo's state, a nested dict, as named arrays plus JSON: what a safetensors file can hold."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = dict[str, NDArray[Any]]
MARK = "__array__"


def pack(tree: Any) -> tuple[Any, Arrays]:
    """Split a tree of dicts, lists, JSON scalars and arrays into a JSON skeleton and its arrays.

    Raises TypeError at anything else, and at dict keys that are neither str nor int.
    """
    arrays: Arrays = {}
    return _pack(tree, "", arrays), arrays


def unpack(skeleton: Any, arrays: Mapping[str, Any]) -> Any:
    """The tree again; dicts keep the type of their keys."""
    if isinstance(skeleton, dict):
        if MARK in skeleton:
            return arrays[skeleton[MARK]]
        return {key: unpack(value, arrays) for key, value in skeleton["items"]}
    if isinstance(skeleton, list):
        return [unpack(value, arrays) for value in skeleton]
    return skeleton


def _pack(node: Any, name: str, arrays: Arrays) -> Any:
    if isinstance(node, np.ndarray):
        arrays[name] = np.asarray(node, order="C")  # `ascontiguousarray` would make a number a vector
        return {MARK: name}
    if isinstance(node, dict):
        if not all(type(key) in (str, int) for key in node):
            raise TypeError(f"state {name or 'root'!r} has keys that are neither str nor int")
        return {"items": [[key, _pack(value, f"{name}/{key}", arrays)] for key, value in node.items()]}
    if isinstance(node, (list, tuple)):
        return [_pack(value, f"{name}/{index}", arrays) for index, value in enumerate(node)]
    if node is None or isinstance(node, (str, int, float, bool)):
        return node
    raise TypeError(f"state {name!r} is a {type(node).__name__}, which a checkpoint cannot hold")
