"""What a topology without a shared model does not go with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from silofl.compression.base import FactorCodec, SketchCodec
from silofl.compression.registry import CODECS
from silofl.privacy.places import PLACES
from silofl.strategies._plain_sgd import unlike_plain_sgd
from silofl.strategies.base import Strategy
from silofl.topologies.arrangements.registry import build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def own_model_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """Each rule a condition and the sentence that says what to do."""
    arrangement, run = build(config.topology), config.run
    if not arrangement.own_models:
        return []
    key = f'topology.name = "{config.topology.name}"'
    named = f'strategy.name = "{config.strategy.name}"'
    private = config.privacy.unit != "none"
    unlike = unlike_plain_sgd(config.train) if arrangement.corrects else None
    drawn = f"run.participation = {run.participation:g}"
    if run.silos_per_round is not None:
        drawn = f"run.silos_per_round = {run.silos_per_round}"
    return [
        (
            not _among_neighbours(strategy),
            f"{key} has no server, and {named} has one that does more than take the mean of silos' changes: "
            'set strategy.name = "fedavg", without strategy.lr and strategy.momentum',
        ),
        (
            private and not PLACES[config.privacy.place].alone,
            f"{key} has neighbours see a sum of few models, or single ones, and privacy.place = "
            f'"{config.privacy.place}" has noise for the sum of all silos alone: set privacy.place = '
            '"local", or topology.name = "sharded"',
        ),
        (
            private and arrangement.compresses,
            'topology.algorithm = "choco" needs [compress], which does not go with privacy.place = "local": '
            'set topology.algorithm = "dpsgd" or "push_sum", and remove [compress]',
        ),
        (
            private and arrangement.corrects,
            f"{key} tells neighbours how far each silo's steps went, of which [privacy] counts nothing: set "
            'topology.algorithm = "dpsgd" or "push_sum"',
        ),
        (
            config.personal.name != "none",
            f"{key} leaves each silo a model of its own already: remove [personal]",
        ),
        (config.prune.active, f"{key} has no shared model to prune: remove [prune]"),
        (
            run.keep_best is not None,
            f"{key} has no shared model to keep the best of, and run.keep_best is set: remove it",
        ),
        (
            run.participation < 1 or run.silos_per_round is not None,
            f"{drawn} draws silos of a sum over all, and {key} has sums over neighbours: remove it",
        ),
        (
            unlike is not None,
            f"{key} takes the change of a model over train.lr for a sum of gradients, as plain SGD makes it; "
            + ("train.{} = {!r} does not: set it to {}".format(*unlike) if unlike else "")
            + ', or topology.algorithm to "dpsgd"',
        ),
        (
            arrangement.corrects and config.train.clip_norm is not None,
            f"{key} tells neighbours the mean gradient of each silo's steps, which train.clip_norm = "
            f'{config.train.clip_norm} changes: remove it, or set topology.algorithm = "dpsgd"',
        ),
        *_compress_rules(config, key, compresses=arrangement.compresses),
    ]


def _among_neighbours(strategy: Strategy) -> bool:
    """Whether silos can do without the strategy's server half."""
    alone = set(strategy.sends) == {"update"} and strategy.shared == ("model",) and not strategy.scalars
    return strategy.averages and alone and strategy.local == "train" and strategy.streaming() is None


def _compress_rules(config: Config, key: str, *, compresses: bool) -> list[Rule]:
    compress = config.compress
    codec, named = CODECS[compress.name], f'compress.name = "{compress.name}"'
    others = issubclass(codec, (FactorCodec, SketchCodec))
    return [
        (
            compress.active and not compresses,
            f"[compress] makes messages of differences shorter, and {key} sends models as they are: set "
            'topology.algorithm = "choco", or remove [compress]',
        ),
        (
            compresses and compress.name == "none",
            'topology.algorithm = "choco" sends compressed differences, and compress.name is unset: set it, '
            'such as to "random_k", or topology.algorithm = "dpsgd"',
        ),
        (
            compresses and others,
            f'{named} needs sums over all silos, and {key} has none: set it to "random_k" or "top_k"',
        ),
        (
            compresses and (compress.bits is not None or compress.rotation),
            f"compress.bits and compress.rotation round values of a sum over all silos, and {key} has none: "
            "remove them",
        ),
        (
            compresses and compress.error_feedback,
            'compress.error_feedback = true does nothing with topology.algorithm = "choco", where copies '
            "have what was lost: remove it",
        ),
    ]
