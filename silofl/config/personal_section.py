"""[personal]: one section for each personal method, whose keys are the fields of its dataclass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section
from silofl.personal.registry import METHODS

DEFAULT = "none"
"""What a [personal] without a name means."""


class PersonalConfig(Section):
    """[personal]: a model of each silo's own. The other keys are the fields of the method that is named."""

    name: str


SECTIONS = {name: section_of(name, kind, PersonalConfig) for name, kind in METHODS.items()}
"""The section of each method."""

if TYPE_CHECKING:
    AnyPersonal = PersonalConfig
else:
    AnyPersonal = any_of(SECTIONS, DEFAULT)
"""The section of any method, told apart by `name`."""
