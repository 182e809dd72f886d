"""Attacks by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from silofl import attacks, families
from silofl.attacks.base import Attack
from silofl.families import Named

ATTACKS: dict[str, type[Attack]] = {
    name: families.member_of(module, Attack) for name, module in families.modules_of(attacks).items()
}
"""What `attack.name` may be."""


def build(section: Named) -> Attack:
    """The attack that [attack] names, with the values that it gives."""
    return families.build(ATTACKS, section)
