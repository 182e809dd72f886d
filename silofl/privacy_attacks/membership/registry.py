"""Membership inferences by the names of their modules: this folder is the list."""

from __future__ import annotations

from silofl import families
from silofl.privacy_attacks import membership
from silofl.privacy_attacks.membership.base import MembershipInference

INFERENCES: dict[str, type[MembershipInference]] = {
    name: families.member_of(module, MembershipInference)  # type: ignore[type-abstract]
    for name, module in families.modules_of(membership).items()
}
"""The attacks that there are."""
