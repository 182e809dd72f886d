"""[compress]: one section for each codec, whose keys are the fields of its dataclass, and what all have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from silofl.compression.registry import CODECS
from silofl.config.member_section import any_of, section_of
from silofl.config.section import Section

DEFAULT = "none"
"""What a [compress] without a name means."""


class CompressConfig(Section):
    """[compress]: fewer bytes between silos. The other keys are the fields of the codec that is named."""

    name: str
    bits: Literal[1, 2, 4, 8, 16, 32] | None = None
    """Of each value that travels, up and down, under a secure sum; `secure.bits` up and a float down where it
    is unset. So many bits hold the sum of all silos', so that each has 2^bits / n levels."""
    rotation: bool = False
    """Whether values are rotated at random before they are rounded to `bits`, so that none stands out."""
    error_feedback: bool = False
    """Whether what is lost is added to the silo's next update."""

    @property
    def text(self) -> str:
        """What is compressed, in a few words; empty where nothing is."""
        if not self.active:
            return ""
        keys = {
            key: value for key, value in self.model_dump().items() if key not in CompressConfig.model_fields
        }
        codec = (
            f"{self.name} ({', '.join(f'{key} = {value}' for key, value in keys.items())})"
            if keys
            else self.name
        )
        parts = [
            *([codec] if self.name != DEFAULT else []),
            *([f"{self.bits} bits a value"] if self.bits is not None else []),
            *(["rotated"] if self.rotation else []),
            *(["error feedback"] if self.error_feedback else []),
        ]
        return f"compressed: {', '.join(parts)}; every silo takes the whole step"

    @property
    def active(self) -> bool:
        """Whether anything is compressed."""
        return self.name != DEFAULT or self.bits is not None


SECTIONS = {name: section_of(name, kind, CompressConfig) for name, kind in CODECS.items()}
"""The section of each codec."""

if TYPE_CHECKING:
    AnyCompress = CompressConfig
else:
    AnyCompress = any_of(SECTIONS, DEFAULT)
"""The section of any codec, told apart by `name`."""
