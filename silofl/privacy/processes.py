"""What releases with correlated noise cost a silo's records: those of one group, with who was always there.

Correlated noise comes as a process of rounds, each silo's from its own past (`bands.py`). Other processes
have independent noise: a record's block of rows ends with its process, and what rows of it were shown tell
less than all. Within a process a silo's noise counts where it is in every sum: who is not told its noise in
the round that lacks it could only be told more by being told all of it, and noise that is known counts for
nothing. So all rounds of a process have the noise of as many silos as the one with the fewest, for where a
silo is missing another process begins with the next round (`transforms.correlated`)."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from silofl.privacy.releases import Release

Spent = Mapping[Release, int]


def least_there(spent: Iterable[Spent]) -> dict[int, int]:
    """How many silos' noise is in every round of each process, of all that was released."""
    found: dict[int, int] = {}
    for release in (release for one in spent for release in one if release.process):
        there = release.shares + release.known
        found[release.process] = min(there, found.get(release.process, there))
    return found


def of_groups(spent: Spent, least: Mapping[int, int]) -> list[dict[Release, int]] | None:
    """What was released of each group of records, but of groups of which no more was than of another.

    None where a process has no noise that counts.
    """
    groups = sorted({release.group for release in spent if release.process})
    if not groups:
        return [dict(spent)]
    found = {group: Counter[Release]() for group in groups}
    for release, count in spent.items():
        seen = _with_noise_of(release, least)
        if seen is None:
            return None
        for group in [release.group] if release.process else groups:
            found[group][seen] += count
    dearest: list[Counter[Release]] = []
    for one in sorted(found.values(), key=Counter.total, reverse=True):
        if not any(one <= other for other in dearest):
            dearest.append(one)
    return [dict(one) for one in dearest]


def dearest(spent: Spent, least: Mapping[int, int] | None = None) -> dict[Release, int] | None:
    """Releases that cost no less than those of any group; None where a process has no noise that counts.

    Each as often as in the group that has most of it, which is one group but for a run's last rounds.
    """
    groups = of_groups(spent, least_there([spent]) if least is None else least)
    if groups is None:
        return None
    found = Counter[Release]()
    for one in groups:
        found |= Counter(one)
    return dict(found)


def _with_noise_of(release: Release, least: Mapping[int, int]) -> Release | None:
    """As a release that says nothing of its process, with the noise of all its rounds."""
    if not release.process:
        return release
    left = least[release.process] - release.known
    if left < 1:
        return None
    whole = replace(release, process=0, group=0)
    if left == release.shares:
        return whole
    part = left / release.shares
    noise, variance = release.noise_multiplier * math.sqrt(part), release.variance * part
    return replace(whole, noise_multiplier=noise, variance=variance, shares=left).as_drawn()
