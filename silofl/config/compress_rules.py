"""What [compress] does not go with, and keys of it that do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.compression.base import FactorCodec
from silofl.compression.registry import CODECS, build
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
        (
            compress.active and config.privacy.unit != "none",
            f"{head} and [privacy]: the grid of the noise has bits of its own, those of secure.bits: remove "
            "[compress], and lower secure.bits as far as the run is not refused",
        ),
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
