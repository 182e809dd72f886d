"""What [compress] does not go with, and keys of it that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.compression.base import FactorCodec
from silofl.compression.registry import CODECS, build
from silofl.privacy.places import PLACES
from silofl.strategies.base import Strategy

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def compress_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[compress] and the sections that it leans on."""
    compress, secure = config.compress, config.secure
    codec = CODECS[compress.name]
    linear, feeds_back = codec.linear, compress.error_feedback or issubclass(codec, FactorCodec)
    keys = {"name": f'compress.name = "{compress.name}"', "bits": f"compress.bits = {compress.bits}"}
    wrong = build(compress).refusal()
    head = keys["name"] if compress.name != "none" else keys["bits"]
    return [
        (
            not linear and compress.bits is not None,
            f"{keys['bits']} are those of values that are added up, and {keys['name']} has a packet of each "
            "silo's own: remove compress.bits",
        ),
        (
            compress.rotation and compress.bits is None,
            "compress.rotation = true spreads values so that few bits hold them, and compress.bits is unset: "
            "set it, such as to 4, or remove the rotation",
        ),
        (
            compress.error_feedback and not compress.active,
            "compress.error_feedback = true adds what is lost to later updates, and nothing is compressed: "
            "set compress.bits or compress.name, or remove it",
        ),
        (
            compress.bits is not None and compress.bits > secure.bits,
            f"{keys['bits']} is more than secure.bits = {secure.bits}, in whose words values are packed: "
            "lower the first or raise the second",
        ),
        *_privacy_rules(config, head),
        (
            compress.active and strategy.needs == "rows",
            f'{head} gives sums alone, and strategy.name = "{config.strategy.name}" needs every silo\'s own '
            "update: remove [compress], or choose another strategy",
        ),
        (wrong is not None, wrong or ""),
        (
            feeds_back and len(strategy.models) > 1,
            f'strategy.name = "{config.strategy.name}" has silos go from one of several models to the next, '
            f"and {head} keeps what was not sent for a model that the silo may have left: remove "
            + ("compress.error_feedback" if compress.error_feedback else "compress.name"),
        ),
        (
            compress.active and secure.range is not None,
            f"{head} agrees on ranges in every round, and secure.range = {secure.range:g} would be another: "
            "remove it"
            if secure.range is not None
            else "",
        ),
    ]


def _privacy_rules(config: Config, head: str) -> list[Rule]:
    """[compress] beside noise: what is sent has to be noisy already, and no longer than what was clipped."""
    compress, privacy = config.compress, config.privacy
    if privacy.unit == "none" or not compress.active:
        return []
    codec = CODECS[compress.name]
    shortening = " or ".join(f'"{name}"' for name, one in CODECS.items() if one.shortens and name != "none")
    return [
        (
            not PLACES[privacy.place].needs_private_sum,
            f"{head} sends sums on as they are added up, and with privacy.place = "
            f'"{privacy.place}" those have no noise, or ranges that tell of single silos: set privacy.place '
            '= "distributed", or remove [compress]',
        ),
        (
            not codec.shortens,
            f"{head} may make a clipped vector longer than noise covers: set compress.name = {shortening}, "
            "or remove it",
        ),
        (
            compress.bits not in (None, config.secure.bits),
            f"compress.bits = {compress.bits}, and the grid of the noise has the ring's bits, "
            f"secure.bits = {config.secure.bits}: remove compress.bits, or set both alike",
        ),
        (
            compress.rotation,
            "compress.rotation = true, and under [privacy] privacy.rotate is the rotation: remove it",
        ),
        (
            compress.error_feedback,
            "compress.error_feedback = true adds what was not sent to later updates after they were clipped, "
            "which noise does not cover: remove it",
        ),
        (
            privacy.bands > 1 and not codec.in_place,
            f"{head} sends other values in each round, and privacy.bands = {privacy.bands} has their noise "
            "cancel from round to round: remove one of them",
        ),
    ]
