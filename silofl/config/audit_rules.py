"""What [audit] does not go with: silos that have no model in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def audit_rules(config: Config) -> list[Rule]:
    """[audit] and the sections that it leans on."""
    return [
        (
            config.audit.trail and build(config.topology).own_models,
            "audit.trail = true has all silos sign the digest of one model, and topology.name = "
            f'"{config.topology.name}" has a model for each: remove one of them',
        ),
    ]
