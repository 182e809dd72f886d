"""What [robust] and [attack] cannot be had of: sums that hide updates, and too few silos."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from silofl.aggregation.bucketing import FEWEST_IN_BUCKET
from silofl.aggregation.protocols import PROTOCOLS, SumProtocol, choose_protocol, protocol_name
from silofl.attacks.base import Insight, LiveAttack
from silofl.config import Config
from silofl.errors import ConfigError
from silofl.robust.base import ResilientRule
from silofl.types import Vector

IN_BUCKETS = next(name for name, one in PROTOCOLS.items() if "buckets" in one.gives)
MANY = 1 << 16
"""Silos that are enough for any rule."""


def refuse_unfit_rule(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where [robust] cannot be had of so many silos."""
    rule = config.robust.rule
    if rule is None:
        return
    protocol, key = choose_protocol(config.secure, silos), f'robust.name = "{config.robust.name}"'
    if "rows" not in protocol.gives:
        refuse_hidden(rule, key, protocol_name(config.secure, silos), protocol)
    run = config.run
    if run.participation < 1:
        raise ConfigError(
            f"{key} needs a number of updates, and run.participation = {run.participation:g} leaves it to "
            "coins: set run.silos_per_round in its place, or remove one of them",
            rank=0,
        )
    count = silos if run.silos_per_round is None else run.silos_per_round
    refusal = rule.refusal_of_run(silos, count)
    if protocol.private and rule.bucket > 1:
        refusal = refusal or _too_few_buckets(rule, count)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)


def refuse_hidden(rule: ResilientRule, key: str, name: str, protocol: SumProtocol) -> None:
    """Raise ConfigError where a sum that hides updates leaves a rule nothing to go by."""
    openly = " or ".join(f'"{one}"' for one, kind in PROTOCOLS.items() if "rows" in kind.gives)
    shown = f"set secure.protocol = {openly}, which shows updates to the ranks that serve their slices"
    hidden = (
        f"{key} compares every silo's own update with the others', and secure.protocol = \"{name}\" "
        "hides them in one sum, in which one silo's lie is not seen"
    )
    if rule.bucket == 1:
        if rule.own_bound is not None:
            _refuse_unused(rule, name)
            return
        with_buckets = replace(rule, bucket=FEWEST_IN_BUCKET).refusal(MANY) is None
        buckets = f"set robust.bucket = {FEWEST_IN_BUCKET} or more, by which it compares the means of random "
        buckets += f'buckets of silos, with secure.protocol = "{IN_BUCKETS}"; or ' if with_buckets else ""
        bound = "set robust.bound, by which each silo cuts its own update; or " if rule.bounds else ""
        remedies = f"{bound}{buckets if with_buckets else ''}{shown}, or remove [robust]"
        raise ConfigError(f"{hidden}: {remedies}", rank=0)
    if "buckets" not in protocol.gives:
        raise ConfigError(
            f'robust.bucket = {rule.bucket} takes sums of buckets, and secure.protocol = "{name}" has one of '
            f'all silos: set secure.protocol = "{IN_BUCKETS}"',
            rank=0,
        )
    if rule.bucket < FEWEST_IN_BUCKET:
        raise ConfigError(
            f'robust.bucket = {rule.bucket} under secure.protocol = "{name}" hides nothing, for each of two '
            f"silos learns the other's update from their sum: set it to {FEWEST_IN_BUCKET} or more",
            rank=0,
        )


def _refuse_unused(rule: ResilientRule, name: str) -> None:
    """Raise ConfigError for keys that say how updates are compared, where each silo cuts its own alone."""
    unset = type(rule)()
    for key in ("mix", "clip", "f"):
        value = getattr(rule, key)
        if value != getattr(unset, key):
            shown = str(value).lower()
            raise ConfigError(
                f'robust.{key} = {shown} compares updates, and under secure.protocol = "{name}" with '
                f"robust.bucket = 1 each silo cuts its own alone: remove it, or set robust.bucket = "
                f"{FEWEST_IN_BUCKET} or more",
                rank=0,
            )


def _too_few_buckets(rule: ResilientRule, silos: int) -> str | None:
    """Why so many silos make too few buckets, naming key, value and remedy; None where they are enough."""
    count, needed = silos // rule.bucket, rule.fewest(rule.f)
    if count >= needed:
        return None
    return (
        f"robust.bucket = {rule.bucket} and robust.f = {rule.f} take {needed} buckets under a secure sum, "
        f"and {silos} silos are in {count}, none of which may be smaller: start {needed * rule.bucket} silos "
        "or more, or set a smaller robust.f or robust.bucket"
    )


def refuse_unfit_attack(config: Config, silos: int) -> None:
    """Raise ConfigError, the same on every rank, where [attack] cannot be had of so many silos."""
    attack = config.attack.attack
    if attack is None:
        return
    head, protocol = f'attack.name = "{config.attack.name}"', choose_protocol(config.secure, silos)
    beyond = [one for one in attack.silos if one >= silos]
    if beyond or not attack.silos:
        raise ConfigError(
            f"attack.silos = {list(attack.silos)} and the silos are 0 to {silos - 1}: name one or more",
            rank=0,
        )
    if attack.omniscient and not attack.colludes:
        raise ConfigError(f"{head} makes no use of other silos' updates: remove attack.omniscient", rank=0)
    refusal = attack.refusal(silos)
    if refusal is not None:
        raise ConfigError(refusal, rank=0)
    hidden = f'secure.protocol = "{protocol_name(config.secure, silos)}"'
    if attack.omniscient and protocol.private:
        raise ConfigError(
            f"attack.omniscient = true shows updates that {hidden} hides: remove it, and attackers know "
            'their own alone, or set secure.protocol = "plain"',
            rank=0,
        )
    if attack.omniscient and len(set(attack.silos)) == silos:
        raise ConfigError(f"{head} by all silos leaves none to know of: remove attack.omniscient", rank=0)
    if protocol.private and not np.isfinite(_sample(attack)).all():
        raise ConfigError(
            f"{head} sends values that no ring has a word for, and {hidden} adds words up: set "
            'secure.protocol = "plain"',
            rank=0,
        )


def _sample(attack: LiveAttack) -> Vector:
    """What it makes of ordinary updates."""
    one = np.ones(2)
    return attack.forge(Insight(one, {0: one, 1: -one}, 4, 2, np.random.default_rng(0)))
