"""Traps by the names of their modules: this folder is the list."""

from __future__ import annotations

from silofl import families
from silofl.privacy_attacks import traps
from silofl.privacy_attacks.traps.base import Trap

TRAPS: dict[str, type[Trap]] = {
    name: families.member_of(module, Trap)  # type: ignore[type-abstract]
    for name, module in families.modules_of(traps).items()
}
"""The traps that there are."""
