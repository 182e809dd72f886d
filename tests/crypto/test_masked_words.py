"""Masked words look like noise, whatever is under them, and are other noise in every round and run."""

import numpy as np
import pytest

from silofl.crypto.masks import PRG_KEY_BYTES
from silofl.crypto.secagg import bind, mask
from tests.crypto.harness import INPUTS, Network, make_round, repeatable
from tests.crypto.naive import DTYPES, mask_words

LENGTH = 200_000


def updates(bits):
    """Peaked around zero like real updates, so far from uniform that a leak would show at once."""
    rng = np.random.default_rng(3)
    spread = 2 ** (bits - 4)
    return {
        k: np.rint(rng.normal(0, spread / 8, LENGTH)).astype(np.int64).astype(DTYPES[bits]) for k in range(3)
    }


def masked(bits=16, prg="aes-128-ctr", **where):
    """Silo 0's masked vector."""
    vectors = updates(bits)
    entropy = where.pop("entropy", repeatable)
    network = Network(make_round(3, bits=bits, prg=prg, **where), vectors, entropy=entropy)
    network.run("mask")
    packets = {s: sent[0] for s, sent in network.sent["share"].items() if s}
    masks = bind(mask(network.stages[0], packets, range(3), LENGTH), INPUTS)
    return vectors[0] + mask_words(masks, bits, LENGTH), vectors[0]


def chi_square(words):
    counts = np.bincount(words.view(np.uint8), minlength=256)
    expected = counts.sum() / 256
    return ((counts - expected) ** 2 / expected).sum()


@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("prg", list(PRG_KEY_BYTES))
def test_masked_words_are_uniform_and_uncorrelated(bits, prg):
    words, update = masked(bits, prg)
    deviation = np.sqrt(2 * 255)  # chi-square with 255 degrees of freedom: mean 255
    assert abs(chi_square(words) - 255) < 5 * deviation
    assert chi_square(update) > 1000 * deviation
    signed = [part.view(f"<i{bits // 8}").astype(float) for part in (words, update)]
    assert abs(np.corrcoef(*signed)[0, 1]) < 5 / np.sqrt(LENGTH)
    shifted = np.corrcoef(signed[0][1:], signed[0][:-1])[0, 1]
    assert abs(shifted) < 5 / np.sqrt(LENGTH)


@pytest.mark.parametrize(
    "where",
    [{"entropy": None}, {"number": 2}, {"session": bytes(16)}, {"prg": "aes-256-ctr"}],
    ids=["fresh keys", "next round", "next run", "other generator"],
)
def test_masks_differ_in_every_round_and_run(where):
    """The last three with the very same secrets: the context alone makes other masks of them."""
    one, _ = masked()
    other, _ = masked(**where)
    equal = np.mean(one == other)
    assert equal < 10 / 2**16
    left, right = (part.astype(float) for part in (one, other))
    assert abs(np.corrcoef(left, right)[0, 1]) < 5 / np.sqrt(LENGTH)


def test_before_the_reveal_even_the_sum_is_noise():
    vectors = updates(16)
    network = Network(make_round(3), vectors, entropy=repeatable)
    network.run("agree")
    total = sum(network.masked.values(), np.zeros(LENGTH, DTYPES[16]))
    assert abs(chi_square(total) - 255) < 5 * np.sqrt(2 * 255)
    assert chi_square(sum(vectors.values(), np.zeros_like(vectors[0]))) > 10_000


def test_a_silo_s_masks_all_have_other_keys():
    network = Network(make_round(6), {k: np.zeros(1, DTYPES[16]) for k in range(6)})
    keys = []
    network.run("mask")
    for k in range(6):
        packets = {s: sent[k] for s, sent in network.sent["share"].items() if s != k}
        keys += bind(mask(network.stages[k], packets, range(6), 1), INPUTS).expose()
    assert len(keys) == 36
    assert len(set(keys)) == 6 + 15  # self masks, and each pair's on both its sides
