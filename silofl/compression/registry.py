"""Codecs by their configured name, which is the name of their module: this folder is the list."""

from __future__ import annotations

from types import ModuleType

from silofl import compression, families
from silofl.compression.base import Codec
from silofl.families import Named


def codec_of(module: ModuleType) -> type[Codec]:
    """The one codec that a module defines. Raises TypeError where it is not as a codec must be."""
    return families.member_of(module, Codec)


CODECS: dict[str, type[Codec]] = {
    name: codec_of(module) for name, module in families.modules_of(compression).items()
}
"""What `compress.name` may be."""


def build(config: Named) -> Codec:
    """The codec that [compress] names, with the values that it gives."""
    return families.build(CODECS, config)
