"""What a run promises of its privacy, told before it starts, and what it must not be allowed to promise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from silofl.aggregation.protocols import choose_protocol
from silofl.comm.collective_errors import allgather_parsed, raise_on_all_ranks
from silofl.comm.elastic_group import ElasticGroup
from silofl.config import Config
from silofl.errors import ConfigError, LessProtectionError
from silofl.privacy.accountant import why_infinite
from silofl.privacy.bands import BandMatrix, matrix_for
from silofl.privacy.claim import Epsilons, bound, claim, fellows, of_coins, of_statistics
from silofl.privacy.places import PLACES
from silofl.privacy.plan import Plan
from silofl.privacy.releases import Release
from silofl.training.private import steps_in
from silofl.types import RingBits

MOST_NOISE = 1e12
"""More is no multiplier that any ring has room for; not-a-number is less than nothing and not more."""
NOTHING_YET: Mapping[Release, int] = MappingProxyType({})
LAST_BITS = 1e-6
"""Relative: what calibrations may differ by from processor to processor."""


def plan_for(
    config: Config,
    dimensions: int,
    records: float,
    here: int,
    silos: int,
    matrix: BandMatrix | None = None,
    before: Mapping[Release, int] = NOTHING_YET,
) -> Plan:
    """The plan of a run of `silos`, of which `here` are there and have `records` together.

    `matrix`: the one that the run began with, where it did. `before`: what is released before the first
    round.
    """
    privacy, place = config.privacy, PLACES[config.privacy.place]
    refuse_unhidden(config, silos)
    clear = not choose_protocol(config.secure, silos).private
    bits: RingBits = 32 if clear or place.alone else config.secure.bits
    steps = 1
    if privacy.samples and place.alone:
        steps = steps_in(config.train.epochs, config.train.steps, privacy.sample_rate)
    rounds = config.run.rounds
    matrix = matrix or matrix_for(privacy.bands, rounds)
    earlier, rate = tuple(before.items()), config.run.participation
    return Plan(privacy, dimensions, bits, here, records, rounds, steps, matrix, earlier, rate)


def refuse_unhidden(config: Config, silos: int) -> None:
    """Raise ConfigError where no secure sum hides what the noise of all silos together has to cover.

    Or where one person may have records in more silos than there are.
    """
    privacy, place = config.privacy, PLACES[config.privacy.place]
    clear = not choose_protocol(config.secure, silos).private
    if clear and place.needs_private_sum:
        raise ConfigError(
            f'privacy.place = "{privacy.place}" hides each silo\'s part in a secure sum, and over {silos} '
            'silos there is none: start three or more, or set privacy.place = "local"',
            rank=0,
        )
    if privacy.institutions_per_patient > silos:
        raise ConfigError(
            f"privacy.institutions_per_patient = {privacy.institutions_per_patient} is more than the "
            f"{silos} silos that there are: set it to {silos} or less",
            rank=0,
        )
    if place.needs_private_sum:
        _refuse_openers(config, silos)


def _refuse_openers(config: Config, silos: int) -> None:
    """Raise ConfigError where colluding silos see through the secure sum: to parts of one share of noise."""
    protocol = choose_protocol(config.secure, silos)
    privacy, (openers, why) = config.privacy, protocol.openers(config.secure, silos)
    alone = silos - 1 - privacy.dropouts
    if openers <= privacy.colluding < alone:
        raise ConfigError(
            f"privacy.colluding = {privacy.colluding}: as many of {silos} silos can open every other's part "
            f"({why}), which has its own share of noise alone; set privacy.colluding to {openers - 1} or "
            f"less, or to {alone}, with which each share is enough",
            rank=0,
        )


def agreed_multiplier(group: ElasticGroup, plan: Plan) -> float:
    """The leading rank's noise multiplier; collective. ConfigError where none meets `target_epsilon`.

    The last bits of a calibration may differ from processor to processor. Every rank holds it to its own
    configuration: see `refuse_weaker`.
    """

    def agree() -> float:
        own = 0.0
        with raise_on_all_ranks(group.comm):
            if group.comm.rank == 0:
                own = plan.noise_multiplier()
        told = allgather_parsed(group.comm, own, float, "the noise")[0]
        with raise_on_all_ranks(group.comm):
            refuse_weaker(plan, told, group.silo_id, group.members[0])
        return told

    return group.step(agree)


def refuse_weaker(plan: Plan, noise_multiplier: float, silo: int, leader: int) -> None:
    """Raise LessProtectionError where this silo's own configuration asks for more noise than it is to have.

    A silo takes nobody's word for the protection of its records, not even the leading rank's.
    """
    if not 0 < noise_multiplier <= MOST_NOISE:
        raise LessProtectionError(
            f"silo {leader} hands out a noise multiplier of {noise_multiplier:.6g}, which is none "
            f"between 0 and {MOST_NOISE:g}: nothing was shared",
            sender=leader,
        )
    weaker = _weaker(plan, noise_multiplier)
    if weaker:
        raise LessProtectionError(
            f"silo {leader} hands out a noise multiplier of {noise_multiplier:.6g}, and silo {silo} asks for "
            f"more by its own {weaker}: nothing was shared",
            sender=leader,
        )


def _weaker(plan: Plan, noise_multiplier: float) -> str:
    """The key that asks for more noise; empty where none does."""
    config, slack = plan.config, 1 + LAST_BITS
    if config.noise_multiplier is not None:
        less = noise_multiplier * slack < config.noise_multiplier
        return f"privacy.noise_multiplier = {config.noise_multiplier:g}" if less else ""
    target = config.target_epsilon
    if target is None or _reached(plan, noise_multiplier, plan.rounds) <= target * slack:
        return ""
    return f"privacy.target_epsilon = {target:g}"


def describe(plan: Plan, noise_multiplier: float) -> str:
    """The claim in full: `every example (...), distributed ... noise of multiplier 1.1, epsilon 3 at ...`."""
    privacy, rounds = plan.config, plan.rounds
    most, until = privacy.max_epsilon, f"after {rounds} rounds"
    if most is not None and _reached(plan, noise_multiplier, rounds) > most:
        rounds = _affordable(plan, noise_multiplier, most)
        until = f"after {rounds} of {plan.rounds} rounds, where privacy.max_epsilon = {most:g} ends the run"
    return _claim(plan, noise_multiplier, foreseen(plan, noise_multiplier, rounds), until)


def foreseen(plan: Plan, noise_multiplier: float, rounds: int) -> Epsilons:
    """What each observer learns at most in so many rounds, if no silo fails."""
    observer = plan.spent_after(noise_multiplier, rounds, 0)
    if not plan.place.holds_against_silos:
        return Epsilons(observer, None)
    return Epsilons(observer, plan.spent_after(noise_multiplier, rounds, fellows(plan.config)))


def describe_spent(plan: Plan, noise_multiplier: float, spent: Epsilons, rounds: int) -> str:
    """The claim in full of a run that ended, by what its ledger has."""
    return _claim(plan, noise_multiplier, spent, f"after {rounds} rounds")


def _claim(plan: Plan, noise_multiplier: float, spent: Epsilons, until: str) -> str:
    noise, matrix = f"noise of multiplier {noise_multiplier:.4g}", plan.matrix
    noise += of_coins(plan.participation)
    if plan.before:
        noise += of_statistics(plan.config)
    if matrix.bands > 1:
        noise += f" in {matrix.bands} bands (column norm {matrix.column_norm:.4g})"
    return claim(plan.config, bound(plan.config, spent, until), noise)


def _reached(plan: Plan, noise_multiplier: float, rounds: int) -> float:
    return plan.spent_after(noise_multiplier, rounds)


def _affordable(plan: Plan, noise_multiplier: float, most: float) -> int:
    """How many rounds stay within `most`; fewer than the run has."""
    good, bad = 0, plan.rounds
    while bad - good > 1:
        middle = (good + bad) // 2
        within = _reached(plan, noise_multiplier, middle) <= most
        good, bad = (middle, bad) if within else (good, middle)
    return good


def refuse_over_budget(plan: Plan, noise_multiplier: float) -> None:
    """Raise `over_budget` where it is."""
    most = plan.config.max_epsilon
    if most is not None and _reached(plan, noise_multiplier, 1) > most:
        raise over_budget(most)


def over_budget(most: float | None) -> ConfigError:
    """The error of a run that cannot afford one round."""
    return ConfigError(
        f"privacy.max_epsilon = {most} does not allow one round: it would spend more at once; set more noise "
        "or a larger privacy.max_epsilon",
        rank=0,
    )


def notes(plan: Plan, noise_multiplier: float) -> list[str]:
    """What the user should know of a promise that is weaker than it looks."""
    privacy, told = plan.config, []
    units = plan.records if privacy.sampled else plan.silos
    if privacy.delta * units >= 1:
        told.append(
            f"privacy.delta = {privacy.delta:g} is not below one over the {units:.0f} {privacy.unit}s: "
            "with such a chance everything of one of them may be shown"
        )
    if math.isinf(_reached(plan, noise_multiplier, plan.rounds)):
        why = why_infinite(plan.whole(noise_multiplier), privacy.delta)
        told.append(
            f"noise of multiplier {noise_multiplier:.4g} promises nothing at privacy.delta = "
            f"{privacy.delta:g} after {plan.rounds} rounds: {why}"
        )
    return told


def refuse_longer(plan: Plan, noise_multiplier: float) -> None:
    """Raise the ConfigError of a resumed run of more rounds than its noise was calibrated for."""
    target = plan.config.target_epsilon
    if target is None:
        return
    reached = _reached(plan, noise_multiplier, plan.rounds)
    if reached > target * (1 + 1e-6):
        raise ConfigError(
            f"run.rounds = {plan.rounds} would spend epsilon {reached:.4g}: the run's noise was made for "
            f"privacy.target_epsilon = {target:g} over fewer rounds; leave run.rounds as it was, or begin "
            "another run",
            rank=0,
        )
