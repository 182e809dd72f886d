"""The held-out part: each sample's role is a function of its own values, its label and the seed."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from silofl.errors import DataError
from silofl.tasks.holdout import held_out, silo_data
from silofl.tasks.random_streams import stream
from silofl.tasks.row_hash import RANGE, row_hashes

VALUES = st.floats(allow_nan=False, width=32)


def naive_hash(row, label, keys):
    """One row's hash by Python's integers, from the definition."""
    words = np.array([label], np.int64).view(np.uint64).tolist()
    halves = [words[0] % 2**32, words[0] // 2**32]
    values = [int(np.float64(value + 0.0).view(np.uint64)) for value in row]
    halves += [value % 2**32 for value in values] + [value // 2**32 for value in values]
    h = (keys[0] + sum(key * word for key, word in zip(keys[1:], halves, strict=True))) % 2**64 // 2**32
    h = (h ^ h >> 16) * 0x85EBCA6B % 2**32
    h = (h ^ h >> 13) * 0xC2B2AE35 % 2**32
    return h ^ h >> 16


@given(st.lists(st.lists(VALUES, min_size=3, max_size=3), min_size=1, max_size=9), st.integers(0, 2**63 - 1))
def test_a_hash_is_its_definition(rows, seed):
    keys = stream(seed, "roles").integers(0, 2**64, 9, dtype=np.uint64).tolist()
    labels = np.arange(len(rows)) - 2
    expected = [naive_hash(row, label, keys) for row, label in zip(rows, labels, strict=True)]
    assert row_hashes(np.array(rows), labels, seed, "roles").tolist() == expected


def test_a_hash_is_of_values_and_not_of_how_they_are_stored():
    x, y = np.arange(-30, 30).reshape(20, 3), np.arange(20) % 3
    first = row_hashes(x, y, 5, "roles")
    strided = np.repeat(x, 2, axis=1)[:, ::2]
    turned = np.asfortranarray(x.astype(np.float64))
    others = [x.astype(kind) for kind in ("f4", "i1", "i8", ">f8", "f2")] + [strided, turned]
    for other in [*others, x.reshape(20, 1, 3, 1)]:
        assert np.array_equal(row_hashes(other, y.astype("i1"), 5, "roles"), first)
    assert np.array_equal(row_hashes(np.where(x == 0, -0.0, x), y, 5, "roles"), first)
    order = np.random.default_rng(0).permutation(20)
    assert np.array_equal(row_hashes(x[order], y[order], 5, "roles"), first[order])
    assert len({*first.tolist(), *row_hashes(x, y + 1, 5, "roles").tolist()}) == 40
    assert not np.isin(row_hashes(x, y, 5, "places"), first).any()
    assert not np.isin(row_hashes(x, y, 6, "roles"), first).any()


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.5, 0.999])
@pytest.mark.parametrize("kind", ["counts", "eighths", "bits", "normal"])
def test_as_many_are_held_out_as_of_independent_draws(kind, fraction):
    samples, seeds = 2000, 60
    x = {
        "counts": np.arange(samples)[:, None],
        "eighths": np.arange(samples)[:, None] / 8 + 1e9,
        "bits": np.arange(samples)[:, None] >> np.arange(11) & 1,
        "normal": np.random.default_rng(0).normal(size=(samples, 5)),
    }[kind]
    held = [held_out(x, np.zeros(samples, int), fraction, seed) for seed in range(seeds)]
    variance = samples * fraction * (1 - fraction)
    counts = np.array([one.sum() for one in held])
    assert abs(counts.mean() - samples * fraction) < 4 * np.sqrt(variance / seeds)
    assert 0.4 * variance < counts.var() < 2 * variance
    beside = np.mean([one[:-1] & one[1:] for one in held])  # neighbours in the table are independent
    assert abs(beside - fraction**2) < 5 * np.sqrt(fraction**2 * 3 / (samples * seeds))


@given(st.integers(0, 99), st.integers(0, 39))
def test_a_role_does_not_depend_on_who_else_is_there(seed, place):
    x, y = np.random.default_rng(0).normal(size=(40, 2)), np.arange(40) % 3
    held = held_out(x, y, 0.3, seed)
    assert np.array_equal(
        held_out(np.delete(x, place, 0), np.delete(y, place), 0.3, seed), np.delete(held, place)
    )
    x[place], y[place] = 1e300, 7
    assert np.array_equal(np.delete(held_out(x, y, 0.3, seed), place), np.delete(held, place))


def test_samples_of_equal_values_have_one_role_and_larger_fractions_hold_out_more():
    x, y = np.random.default_rng(0).integers(0, 3, (300, 2)), np.zeros(300, int)
    held = {fraction: held_out(x, y, fraction, 1) for fraction in (1e-9, 0.2, 0.4, 1 - 1e-9)}
    roles = {
        (*row, role) for row, role in zip(x.tolist(), held[0.4].tolist(), strict=True) for row in [tuple(row)]
    }
    assert len(roles) == 9
    assert not held[1e-9].any()
    assert held[1 - 1e-9].all()
    assert not (held[0.2] & ~held[0.4]).any()


def test_a_million_rows_take_about_a_second_at_most():
    x, y = np.ones((200_000, 30)), np.zeros(200_000, int)
    began = time.process_time()
    row_hashes(x, y, 0, "roles")
    assert time.process_time() - began < 1.0  # 0.04 s for a fifth of a million, where nobody else computes


def test_types_of_both_sides():
    x, y = np.random.default_rng(0).normal(5, 3, (50, 4)), np.arange(50) % 3
    held = np.arange(50) < 10
    train, test = silo_data(x, y, held, silo=0)
    for samples, side in ((train, ~held), (test, held)):
        assert [tensor.dtype for tensor in samples.tensors] == [torch.float32, torch.int64]
        assert np.array_equal(samples.tensors[0], x[side].astype(np.float32))
        assert np.array_equal(samples.tensors[1], y[side])


def test_a_silo_without_held_out_samples_only_trains_and_says_so(capsys):
    train, test = silo_data(np.zeros((3, 2)), np.zeros(3, int), np.zeros(3, bool), silo=7)
    assert len(train) == 3
    assert len(test) == 0
    assert (
        "silo 7: none of 3 sample(s) of silo 7 is held out by data.test_fraction" in capsys.readouterr().err
    )


@pytest.mark.parametrize("samples", [2, 4])
def test_a_silo_without_training_samples_is_refused(samples):
    sentence = rf"mine.csv has {samples} sample\(s\), of which data.test_fraction holds out all.*give it more"
    with pytest.raises(DataError, match=sentence):
        silo_data(
            np.zeros((samples, 2)), np.zeros(samples, int), np.ones(samples, bool), silo=7, name="mine.csv"
        )


@pytest.mark.parametrize("samples", [0, 1])
def test_too_few_samples(samples):
    with pytest.raises(DataError, match=rf"silo 7 has {samples} sample.*at least 2"):
        silo_data(np.zeros((samples, 2)), np.zeros(samples, int), np.zeros(samples, bool), silo=7)


def test_streams_differ_by_purpose_and_silo_and_repeat():
    first = stream(3, "roles", 1).integers(2**60)
    assert first == stream(3, "roles", 1).integers(2**60)
    others = [
        stream(4, "roles", 1),
        stream(3, "partition", 1),
        stream(3, "places", 1),
        stream(3, "roles", 2),
        stream(2**62, "roles", 1),
    ]
    assert len({first, *(other.integers(2**60) for other in others)}) == 6
    assert RANGE == 2**32
