"""Which sections contradict each other: each rule a condition and the sentence that says what to do.

Those of [secure] are where its protocols are: `silofl.federation.secure_conflicts`. Keys of [privacy] that do
nothing: `silofl.config.privacy_keys`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from silofl.config import privacy_keys
from silofl.config.attack_rules import attack_rules
from silofl.config.audit_rules import audit_rules
from silofl.config.buffering_rules import buffering_rules
from silofl.config.clients_rules import clients_rules
from silofl.config.compress_rules import compress_rules
from silofl.config.data_rules import column_rules, data_rules, head_rules
from silofl.config.detection_rules import detection_rules
from silofl.config.mask_rules import mask_rules
from silofl.config.own_model_rules import own_model_rules
from silofl.config.participation_rules import participation_rules
from silofl.config.prune_rules import prune_rules
from silofl.config.rank_rules import rank_rules
from silofl.config.rate_rules import rate_rules
from silofl.config.robust_rules import robust_rules
from silofl.config.sections import PrivacyConfig, TrainConfig
from silofl.config.topology_rules import topology_rules
from silofl.config.watched_rules import watched_rules
from silofl.errors import ConfigError
from silofl.personal import registry as methods
from silofl.personal.base import Personal
from silofl.privacy.places import PLACES
from silofl.strategies.base import Strategy
from silofl.strategies.registry import STRATEGIES, build

if TYPE_CHECKING:
    from silofl.config import Config

Rule = tuple[bool, str]


def found(config: Config) -> Iterator[str]:
    """What is wrong between the sections, a sentence each."""
    strategy = build(config.strategy)
    rules = data_rules(config) + column_rules(config) + head_rules(config) + strategy_rules(config, strategy)
    rules += personal_rules(config, strategy)
    rules += participation_rules(config) + compress_rules(config, strategy)
    rules += prune_rules(config, strategy) + watched_rules(config, strategy)
    rules += robust_rules(config, strategy) + attack_rules(config, strategy)
    rules += detection_rules(config, strategy) + audit_rules(config)
    rules += rate_rules(config, strategy, methods.build(config.personal))
    rules += buffering_rules(config, strategy) + topology_rules(config) + own_model_rules(config, strategy)
    rules += rank_rules(config, strategy, methods.build(config.personal))
    rules += clients_rules(config, strategy, methods.build(config.personal))
    if config.privacy.unit != "none":
        rules += release_rules(config, strategy) + privacy_rules(config, strategy)
        rules += neighbour_rules(config.privacy) + metric_rules(config) + band_rules(config)
    statistics = bool(config.data.standardize)
    rules += [(True, sentence) for sentence in privacy_keys.refusals(config.privacy, statistics=statistics)]
    return (sentence for wrong, sentence in rules if wrong)


def corrects(strategy: Strategy) -> bool:
    """Whether a strategy changes the gradients of local steps."""
    return type(strategy).correct is not Strategy.correct


def strategy_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[strategy] and how silos train."""
    refusal, train = strategy.refusal(config.train), config.train
    return [
        (refusal is not None, refusal or ""),
        (
            train.seconds is not None and strategy.local == "gradient",
            f"train.seconds = {train.seconds} bounds local steps, and strategy.name = "
            f'"{config.strategy.name}" takes none: remove it',
        ),
        (
            train.seconds is not None and config.privacy.samples,
            f"train.seconds = {train.seconds} leaves open how many steps there are, and each costs epsilon: "
            "set train.steps instead",
        ),
        *mask_rules(config, strategy),
        (
            corrects(strategy) and config.train.optimizer == "SparseAdam",
            'train.optimizer = "SparseAdam" takes sparse gradients alone, and strategy.name = '
            f'"{config.strategy.name}" adds values everywhere: choose another, such as "SGD"',
        ),
    ]


def personal_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[personal] and what silos train together."""
    method, key = methods.build(config.personal), f'personal.name = "{config.personal.name}"'
    refusal, train = method.refusal(config.train, strategy), config.train
    norms = f'train.batch_norm = "{train.batch_norm}"'
    dense = method.effect == "instead" or type(method).beside is not Personal.beside
    return [
        (
            train.batch_norm != "averaged" and (method.effect in ("beside", "instead") or method.keeps_norms),
            f"{norms} keeps running statistics with each silo, and {key} has its own: remove the first",
        ),
        (
            train.batch_norm != "averaged" and config.privacy.unit != "none",
            f"{norms} keeps statistics that records decide, without noise: remove it, or [privacy]",
        ),
        (refusal is not None, refusal or ""),
        (
            method.effect != "none" and len(strategy.models) > 1,
            f'strategy.name = "{config.strategy.name}" gives each silo one of several models, and {key} one '
            'of its own: remove [personal], or set strategy.name = "fedavg"',
        ),
        (
            method.needs_layers and not getattr(method, "layers", ()),
            f"{key} keeps layers with each silo, and personal.layers names none: set it to patterns of "
            'names, such as ["head.*"]',
        ),
        (
            method.effect != "none" and config.privacy.unit != "none",
            f"{key} trains on records without noise, which privacy.unit = "
            f'"{config.privacy.unit}" does not cover: remove [privacy], or [personal]',
        ),
        (
            method.effect in ("part", "instead") and strategy.local != "train",
            f'{key} needs local steps, and strategy.name = "{config.strategy.name}" takes none: set '
            'strategy.name = "fedavg"',
        ),
        (
            dense and train.optimizer == "SparseAdam",
            f'train.optimizer = "SparseAdam" takes sparse gradients alone, and {key} steps along dense ones: '
            'choose another, such as "SGD"',
        ),
        (
            method.effect == "instead" and train.precision == "float16",
            f'{key} adds gradients up, which train.precision = "float16" scales: set "bfloat16" or "full"',
        ),
    ]


def release_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[privacy] bounds and hides one vector, unless all that is sent is made of noisy steps."""
    privacy, name = config.privacy, config.strategy.name
    noisy_steps = privacy.samples and PLACES[privacy.place].alone
    remedy = 'privacy.place = "local"' if privacy.samples else 'strategy.name = "fedavg"'
    others = [kind for kind in strategy.sends if kind != "update"]
    by_round = [kind for kind, weighting in strategy.sends.items() if weighting == "round"]
    if len(strategy.models) > 1:
        sentence = (
            f'strategy.name = "{name}" has each silo choose a model by the loss on its training records, '
            f'without noise, which privacy.unit = "{privacy.unit}" does not cover: set strategy.name = '
            '"fedavg", or remove [privacy]'
        )
        return [(True, sentence)]
    return [
        (
            bool(others) and not noisy_steps,
            f'strategy.name = "{name}" sends {" and ".join(others)} beside the update, which privacy.unit = '
            f'"{privacy.unit}" with privacy.place = "{privacy.place}" does not cover: set {remedy}',
        ),
        (
            strategy.streaming() is not None,
            f'strategy.name = "{name}" has a local model go on in each silo from round to round, which '
            f'privacy.unit = "{privacy.unit}" does not cover: set strategy.name = "diloco", or remove '
            "[privacy]",
        ),
        (
            strategy.needs == "rows" and not PLACES[privacy.place].alone,
            f'strategy.name = "{name}" needs every silo\'s own update, and privacy.place = "{privacy.place}" '
            'shows noisy sums alone: set privacy.place = "local"',
        ),
        (
            bool(strategy.scalars or by_round),
            f'strategy.name = "{name}" tells {" and ".join([*strategy.scalars, *by_round[:1]])} of each '
            'silo\'s training without noise: set strategy.name = "fedavg", or remove [privacy]',
        ),
        (
            privacy.samples and strategy.compared_layer() is not None,
            f'strategy.name = "{name}" adds a term to the loss of a batch, and privacy.unit = '
            f'"{privacy.unit}" clips gradients of single samples: set strategy.name = "fedavg", or '
            'privacy.unit = "silo"',
        ),
        (
            privacy.samples and strategy.at_start() != "nothing",
            f'strategy.name = "{name}" works out the {strategy.at_start()} of all samples at the shared '
            f'model, which has no noise under privacy.unit = "{privacy.unit}": '
            'set strategy.name = "fedavg", or remove [privacy]',
        ),
    ]


def privacy_rules(config: Config, strategy: Strategy) -> list[Rule]:
    """[privacy] and the sections that it leans on."""
    privacy, train = config.privacy, config.train
    place = PLACES[privacy.place]
    samples, alone, unit = privacy.samples, place.alone, f'privacy.unit = "{privacy.unit}"'
    trains = strategy.local == "train"
    gradients = " or ".join(f'"{name}"' for name, kind in STRATEGIES.items() if kind.local == "gradient")
    return [
        (
            (privacy.noise_multiplier is None) == (privacy.target_epsilon is None),
            "[privacy] takes its noise from one key: set privacy.noise_multiplier or privacy.target_epsilon",
        ),
        (
            samples and not alone and trains,
            f'{unit} with privacy.place = "{privacy.place}" adds up gradients at every '
            f'step: set strategy.name = {gradients}, or privacy.place = "local"',
        ),
        (
            samples and alone and not trains,
            f'{unit} with privacy.place = "{privacy.place}" trains in each silo and '
            f'strategy.name = "{config.strategy.name}" does not: set "fedavg", or privacy.place = '
            '"distributed"',
        ),
        (
            samples and train.full_batch,
            "train.full_batch samples nothing and privacy counts on Poisson sampling: remove it and set "
            "privacy.sample_rate (1 for all)",
        ),
        (
            samples and train.batch_size != TrainConfig().batch_size,
            f"train.batch_size = {train.batch_size} takes batches of one size and privacy counts on Poisson "
            f"sampling: remove it and set privacy.sample_rate, the part of the {_counted(privacy)} in a step",
        ),
        (
            privacy.clip_quantile is not None and (privacy.sampled or alone),
            "privacy.clip_quantile follows the norms of silos' updates, counted together: it goes with "
            'privacy.unit = "silo" and a place other than "local"; remove it',
        ),
        (
            samples and train.clip_norm is not None,
            f"train.clip_norm clips sums of gradients, which bounds no {privacy.unit}: use privacy.clip_norm",
        ),
    ]


def _counted(privacy: PrivacyConfig) -> str:
    """What is sampled."""
    return {"patient": "patients", "client": "clients"}.get(privacy.unit, "records")


def neighbour_rules(privacy: PrivacyConfig) -> list[Rule]:
    """What each neighbouring relation needs, and several institutions of one person."""
    samples, added = privacy.sampled, privacy.neighbours == "add-remove"
    what = _counted(privacy)
    replaced = privacy.neighbours == "replace-one"
    renyi = privacy.accountant == "rdp" or privacy.mechanism == "skellam"
    return [
        (
            added and not samples,
            'privacy.neighbours = "add-remove" and privacy.unit = "silo": which silos there are is public, '
            'and none is added or removed unseen; set "replace-special" or "replace-one"',
        ),
        (
            added and samples and privacy.records is None,
            f'privacy.neighbours = "add-remove" needs a number of {what} that is not made of the data: set '
            f"privacy.records to how many training {what} all silos are expected to have together",
        ),
        (
            replaced and samples and privacy.sample_rate < 1 and renyi,
            f'privacy.neighbours = "replace-one" with sampled {what} has no Renyi divergence that is known: '
            'set privacy.accountant to "pld" and privacy.mechanism to "discrete-gaussian", or '
            "privacy.sample_rate to 1",
        ),
        (
            privacy.institutions_per_patient > 1
            and not PLACES[privacy.place].alone
            and samples
            and privacy.sample_rate < 1
            and renyi,
            f"privacy.institutions_per_patient = {privacy.institutions_per_patient} with sampled {what} has "
            'no Renyi divergence that is known: set privacy.accountant to "pld" and privacy.mechanism to '
            '"discrete-gaussian", or privacy.sample_rate to 1',
        ),
    ]


def band_rules(config: Config) -> list[Rule]:
    """What correlated noise does not go with."""
    privacy, rounds = config.privacy, config.run.rounds
    bands, rate = privacy.bands, privacy.sample_rate
    head, many, remedy = f"privacy.bands = {bands}", bands > 1, "or remove privacy.bands"
    example, shared = privacy.samples, PLACES[privacy.place].needs_private_sum
    coins = config.run.participation < 1
    silos_do = "silos are in rounds by coins" if coins else "every silo takes part in every round"
    silos_do = "clients are in rounds by coins" if privacy.unit == "client" else silos_do
    return [
        (
            many and not example,
            f"{head} has each record take part in every {bands}th round alone, and under privacy.unit = "
            f'"{privacy.unit}" {silos_do}: set privacy.unit = "example", {remedy}',
        ),
        (
            many and example and not shared,
            f"{head} correlates the noise that silos add inside the secure sum, and privacy.place is "
            f'"{privacy.place}": set privacy.place = "distributed", {remedy}',
        ),
        (
            many and privacy.institutions_per_patient > 1,
            f"{head} has a person take part in every {bands}th round alone, and with privacy."
            f"institutions_per_patient = {privacy.institutions_per_patient} other silos have that person in "
            f"other rounds: set it to 1, {remedy}",
        ),
        (
            many and privacy.mechanism != "discrete-gaussian",
            f'{head} correlates Gaussian noise, and privacy.mechanism is "{privacy.mechanism}": set '
            f'privacy.mechanism = "discrete-gaussian", {remedy}',
        ),
        (
            many and bool(privacy.budget_dir),
            f"{head} makes earlier rounds dearer when a silo is lost, which the file in privacy.budget_dir "
            "cannot count: remove one of them",
        ),
        (
            many and bands > rounds,
            f"{head} are more than run.rounds = {rounds}: set privacy.bands to {rounds} or less",
        ),
        (
            many and example and shared and bands <= rounds and rate * bands > 1,
            f"privacy.sample_rate = {rate:g} is more than {head} can have, with which a record takes part in "
            f"every {bands}th round at most: set privacy.sample_rate to {1 / bands:.4g} or less, or "
            f"privacy.bands to {max(1, int(1 / rate))} or less",
        ),
    ]


def metric_rules(config: Config) -> list[Rule]:
    """Keys that need metrics of held-out records, where none are shown."""
    shown, remedy = config.evaluates, 'or set privacy.metrics = "exact", which no epsilon covers'
    return [
        (
            not shown and "evaluate_every" in config.run.model_fields_set,
            'run.evaluate_every is set and privacy.metrics is "none", so that nothing is evaluated: '
            f"remove it, {remedy}",
        ),
        (
            not shown and config.run.share_silo_metrics is True,
            'run.share_silo_metrics = true and privacy.metrics is "none", so that silos have none to show: '
            f"remove it, {remedy}",
        ),
    ]


def refuse_private_parameters(config: Config, strategy: Strategy) -> None:
    """Raise ConfigError where private parameters would not be trained, or would tell of their data."""
    if strategy.local == "gradient":
        raise ConfigError(
            f'strategy.name = "{config.strategy.name}" takes no local step, so that the task\'s private '
            'parameters would stay as they are: set strategy.name = "fedavg", or remove the attribute private'
        )
    if strategy.local == "masks":
        raise ConfigError(
            f'strategy.name = "{config.strategy.name}" trains masks of shared weights alone, so that the '
            "task's private parameters would stay as they are: remove the attribute private, or choose "
            "another strategy"
        )
    if config.privacy.unit != "none":
        raise ConfigError(
            f'privacy.unit = "{config.privacy.unit}" puts noise on what is shared, and metrics of the '
            "task's private parameters have none: remove [privacy], or the attribute private"
        )
