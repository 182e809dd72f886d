"""Masks inside buckets: what opens is each bucket's sum, and what colluders make of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from silofl.crypto.masks import MaskKeys
from silofl.crypto.secagg import bind, unmask
from tests.crypto.harness import INPUTS, Network, make_round, random_vectors
from tests.crypto.naive import mask_words
from tests.crypto.test_masked_words import chi_square

N, LENGTH, BITS = 9, 20_000, 16
BUCKETS = ((0, 4, 8), (1, 2, 6), (3, 5, 7))


class InBuckets(Network):
    """Each silo's vector has the masks of its bucket alone."""

    def mask(self, k: int) -> Any:
        stage, _ = super().mask(k)
        masks = bind(stage, INPUTS).within(bucket_of(k))
        self.masked[k] = self.vectors[k] + mask_words(masks, BITS, LENGTH)
        self.bound[k] = masks
        return stage, self.masked[k]


def bucket_of(silo: int) -> tuple[int, ...]:
    return next(bucket for bucket in BUCKETS if silo in bucket)


def played(opened: tuple[int, ...] = tuple(range(N))) -> tuple[Network, MaskKeys]:
    """A round in which the sums over the silos `opened` are opened, and what any silo learns of it."""
    vectors = {k: vector & 0xFF for k, vector in random_vectors(N, LENGTH, BITS).items()}  # far from uniform
    network = InBuckets(make_round(N), vectors)
    network.bound = {}  # type: ignore[attr-defined]
    network.run("agree")
    network.survivors = frozenset(opened)
    for name in ("agree", "reveal"):
        network.sent[name] = network.step(name, getattr(network, name))
    return network, unmask(network.stages[0], network.deliver("reveal", network.sent["reveal"], 0))


def total(network: Network, silos: Any) -> Any:
    return sum((network.masked[silo] for silo in silos), np.zeros(LENGTH, np.uint16))


def noise(words: Any) -> bool:
    """Whether they are like uniform ones."""
    return bool(abs(chi_square(words) - 255) < 6 * np.sqrt(2 * 255))


def without(words: Any, keys: MaskKeys, known: Any) -> Any:
    """Words of silo 0 less all of its masks that somebody knows who knows those of the silos `known`."""
    taken = keys.within({0}), *(keys.within({0, one}) for one in known)
    pairs = {pair: key for part in taken for pair, key in zip(part.silos, part.keys, strict=True)}
    signs = {pair: sign for part in taken for pair, sign in zip(part.silos, part.signs, strict=True)}
    return words - mask_words(MaskKeys(keys.prg, tuple(pairs.values()), tuple(signs.values())), BITS, LENGTH)


def test_each_bucket_opens_and_no_other_sum() -> None:
    network, left = played()
    for bucket in BUCKETS:
        found = total(network, bucket) + mask_words(left.within(bucket), BITS, LENGTH)
        np.testing.assert_array_equal(found, sum(network.vectors[silo] for silo in bucket))
    for silos in [(0,), (0, 4), (0, 1, 2), (0, 4, 1, 2, 6, 3)]:
        assert noise(total(network, silos) + mask_words(left.within(silos), BITS, LENGTH))


@pytest.mark.parametrize(("colluders", "seen"), [((8,), False), ((4, 8), True)])
def test_a_silo_of_a_bucket_of_three_is_hidden_from_one_colluder_and_not_from_two(
    colluders: tuple[int, ...], seen: bool
) -> None:
    """They take off what they share with silo 0, and know its self mask, as all do once the sum is open."""
    network, left = played()
    found = without(network.masked[0], network.bound[0], colluders)  # type: ignore[attr-defined]
    assert noise(found) is not seen
    assert np.array_equal(found, network.vectors[0]) is seen
    of_bucket = total(network, BUCKETS[0]) + mask_words(left.within(BUCKETS[0]), BITS, LENGTH)
    less = of_bucket - sum(network.vectors[silo] for silo in colluders)
    others = [silo for silo in BUCKETS[0] if silo not in colluders]
    np.testing.assert_array_equal(less, sum(network.vectors[silo] for silo in others))


def test_of_a_bucket_that_is_left_out_nothing_opens() -> None:
    """Silo 7 died before its words were in; its bucket's two others are there and not voted for."""
    opened = tuple(silo for silo in range(N) if silo not in BUCKETS[2])
    network, left = played(opened)
    for bucket in BUCKETS[:2]:
        found = total(network, bucket) + mask_words(left.within(bucket), BITS, LENGTH)
        np.testing.assert_array_equal(found, sum(network.vectors[silo] for silo in bucket))
    # Their keys of pairs are opened, for what rides along has these; their self masks are not.
    assert {whose for whose in left.silos if len(whose) == 1} == {(silo,) for silo in opened}
    for silos in [(3,), (3, 5), (3, 5, 7)]:
        known = [key for silo in silos for key in without_self(network.bound[silo])]  # type: ignore[attr-defined]
        keys, signs = tuple(key for key, _ in known), tuple(sign for _, sign in known)
        pairs = MaskKeys("aes-128-ctr", keys, signs)
        assert noise(total(network, silos) - mask_words(pairs, BITS, LENGTH))


def without_self(masks: MaskKeys) -> list[Any]:
    every = zip(masks.silos, masks.keys, masks.signs, strict=True)
    return [(key, sign) for whose, key, sign in every if len(whose) == 2]
