"""Gradient inversions by the names of their modules: this folder is the list."""

from __future__ import annotations

from silofl import families
from silofl.privacy_attacks import inversion
from silofl.privacy_attacks.inversion.base import GradientInversion

INVERSIONS: dict[str, type[GradientInversion]] = {
    name: families.member_of(module, GradientInversion)  # type: ignore[type-abstract]
    for name, module in families.modules_of(inversion).items()
}
"""The attacks that there are."""
