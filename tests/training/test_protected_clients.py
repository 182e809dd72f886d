"""Clients that are protected: what one learns follows from its own records alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData
from tests.training.test_local_clients import FEATURES, EachLine, clients_in, silo_of, summed

PRIVACY = {"unit": "client", "noise_multiplier": 1.0, "place": "central", "sample_rate": 0.5}
TRAIN = {"dtype": "float64", "batch_size": 4, "epochs": 2, "lr": 0.1}
PERSONS = 6


class Persons(EachLine):
    """Of several persons, of whom some are left out, a coin decides on each value, and one may lie last."""

    def __init__(
        self, *, without: int = -1, last: int = -1, spoiled: int = -1, one_by_one: bool = False
    ) -> None:
        self._without, self._last, self._spoiled, self._one_by_one = without, last, spoiled, one_by_one

    def hidden(self) -> nn.Module:
        return nn.Dropout(0.3)

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = super().data(silo, silos).train.tensors  # type: ignore[attr-defined]
        whose = np.sort(np.arange(len(x)) % PERSONS)
        x[whose == self._spoiled] = torch.nan
        kept = np.flatnonzero(whose != self._without)
        kept = kept[np.argsort(whose[kept] == self._last, kind="stable")]
        train: Any = TensorDataset(x[kept], y[kept])
        return SiloData(OneByOne(train) if self._one_by_one else train, None, whose[kept])


class OneByOne:
    """Samples that are read by number, with chance in each."""

    def __init__(self, rows: TensorDataset) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Any:
        x, y = self._rows[index]
        return x + torch.rand(1, dtype=x.dtype), y


class BatchMean(Persons):
    """The loss of one sample follows from its whole batch."""

    def hidden(self) -> nn.Module:
        return nn.BatchNorm1d(FEATURES, track_running_stats=False)


def of_all(task: Persons, **train: Any) -> tuple[Any, int, Silo]:
    """The sum of all persons' updates, none of which is so long that it is clipped."""
    silo = silo_of(task, clients={"split": "owner"}, privacy=PRIVACY, train=TRAIN | train)
    total, _, refused = summed(silo, list(range(len(clients_in(silo)))), 1e6)
    return total, refused, silo


def of_person(person: int, one_by_one: bool) -> Any:
    """What that person adds to a sum over all, by its number among them."""
    silo = silo_of(Persons(one_by_one=one_by_one), clients={"split": "owner"}, privacy=PRIVACY, train=TRAIN)
    return summed(silo, [person], 1e6)[0]


@pytest.mark.parametrize("one_by_one", [False, True])
def test_who_joins_or_leaves_moves_a_sum_by_their_own_update_alone(one_by_one: bool) -> None:
    """Though all who come later are numbered anew, and draw an order and dropout."""
    whole, _, _ = of_all(Persons(one_by_one=one_by_one))
    for person in (0, 3):
        without, _, silo = of_all(Persons(without=person, one_by_one=one_by_one))
        assert len(clients_in(silo)) == PERSONS - 1
        assert np.allclose(whole - without, of_person(person, one_by_one), rtol=1e-9, atol=1e-12)
    assert np.allclose(whole, of_all(Persons(last=0, one_by_one=one_by_one))[0], rtol=1e-9, atol=1e-12)


def test_the_same_records_learn_the_same_in_a_round_and_others_by_another_chance() -> None:
    silo = silo_of(Persons(), clients={"split": "owner"}, privacy=PRIVACY, train=TRAIN)
    assert (summed(silo, [2])[0] == summed(silo, [2])[0]).all()
    seeds = [clients_in(silo)._seed_of(one) for one in range(PERSONS)]
    assert len(set(seeds)) == PERSONS


def test_each_trains_by_itself_whatever_their_data() -> None:
    """A batch that is filled up for another client would have other losses."""
    _, _, silo = of_all(BatchMean())
    assert clients_in(silo).why_alone == 'privacy.unit = "client" trains each client by itself'
    alone = {one: summed(silo, [one], 1e6)[0] for one in range(PERSONS)}
    assert np.allclose(summed(silo, [0, 4, 5], 1e6)[0], sum(alone[one] for one in (0, 4, 5)), rtol=1e-12)


@pytest.mark.parametrize("person", [0, 1, 5])
def test_values_that_are_not_finite_count_as_zero_in_any_client(person: int) -> None:
    total, refused, _ = of_all(Persons(spoiled=person))
    assert refused == 1
    assert np.allclose(total, of_all(Persons(without=person))[0], rtol=1e-9, atol=1e-12)
