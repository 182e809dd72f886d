"""Algorithms by their configured name, which is the name of their module."""

from __future__ import annotations

from silofl import families
from silofl.mixing import algorithms
from silofl.mixing.algorithms.base import Algorithm

ALGORITHMS: dict[str, type[Algorithm]] = {
    name: families.member_of(module, Algorithm)  # type: ignore[type-abstract]
    for name, module in families.modules_of(algorithms).items()
}
"""What `topology.algorithm` may be."""
