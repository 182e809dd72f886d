"""[topology]: one section for each arrangement of ranks, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.topologies.arrangements.registry import ARRANGEMENTS

DEFAULT = "sharded"
"""What a [topology] without a name means."""
OTHERS = "other"
"""Stands for topologies that have a class in `TOPOLOGIES` and no arrangement, and so no keys."""


class TopologyConfig(Section):
    """[topology]: how contributions become the next models. The other keys are those of the one named."""

    name: str = DEFAULT


SECTIONS = {name: section_of(name, kind, TopologyConfig) for name, kind in ARRANGEMENTS.items()}
"""The section of each arrangement."""

if TYPE_CHECKING:
    AnyTopology = TopologyConfig
else:
    AnyTopology = any_of({**SECTIONS, OTHERS: TopologyConfig}, DEFAULT, others=OTHERS)
"""The section of any topology, told apart by `name`."""
