"""The secure sum is the plain sum, bit for bit, or a named refusal: for every pattern of deaths."""

import itertools
import random

import numpy as np
import pytest

from silofl.crypto.capacity import check_capacity, count_limbs, decode_weight, encode_weight, weight_limbs
from silofl.crypto.graph import Bounds
from silofl.crypto.masks import PRG_KEY_BYTES
from silofl.crypto.secagg.messages import KEY_SHARE, SEED_SHARE, Reveal
from silofl.errors import ThresholdError
from tests.campaigns import mostly_long
from tests.crypto.harness import STEPS, Network, make_round, plain_sum, random_vectors, remember_verifications

LENGTH = 5


@pytest.mark.covering(1)
@pytest.mark.parametrize("bits", [8, 16, 32])
@pytest.mark.parametrize("prg", list(PRG_KEY_BYTES))
def test_every_ring_and_generator_gives_the_exact_sum(bits, prg):
    for n, length in ((3, 1), (4, 17), (5, 1000), (7, 63)):
        vectors = random_vectors(n, length, bits, seed=n)
        results = Network(make_round(n, bits=bits, prg=prg), vectors).run()
        assert sorted(results) == list(range(n))
        for result in results.values():
            np.testing.assert_array_equal(result, plain_sum(vectors, range(n)))


@pytest.mark.parametrize("n", range(3, 13))
def test_weighted_sum_is_the_plain_integer_sum(n):
    rng = np.random.default_rng(n)
    bits = int(rng.choice([8, 16, 32]))
    counts = [int(10 ** rng.uniform(0, 7)) for _ in range(n)]
    shares = [count / sum(counts) for count in counts]
    scale = check_capacity(bits, 0.5, n)
    x = rng.uniform(-0.5, 0.5, (n, 101))
    x[:, :2] = 0.5, -0.5
    quantized = np.rint(np.array(shares)[:, None] * x * scale).astype(np.int64)
    counting, weighing = count_limbs(bits, n), weight_limbs(bits, n)
    vectors = {
        k: np.concatenate(
            [
                quantized[k].astype(f"<u{bits // 8}"),
                counting.encode(counts[k]),
                encode_weight(shares[k], weighing),
            ]
        )
        for k in range(n)
    }
    lost = n - 1 if n > 3 else None
    network = Network(make_round(n, bits=bits), vectors, {lost: "mask"} if lost else {})
    result = network.run()[0]
    alive = sorted(network.survivors)
    assert len(alive) == (n - 1 if lost else n)
    signed = result[:101].view(f"<i{bits // 8}").astype(np.int64)
    np.testing.assert_array_equal(signed, quantized[alive].sum(axis=0))
    assert counting.decode(result[101 : 101 + counting.words]) == sum(counts[k] for k in alive)
    total = decode_weight(result[101 + counting.words :], weighing)
    assert abs(total - sum(shares[k] for k in alive)) <= 2.0**-40


def test_two_silos_when_allowed_by_name():
    vectors = random_vectors(2, LENGTH, 16)
    results = Network(make_round(2, allow_two=True), vectors).run()
    for result in results.values():
        np.testing.assert_array_equal(result, plain_sum(vectors, (0, 1)))


def check_pattern(n, pattern, **rules):
    """One timetable of deaths: every living silo has the exact sum, or all were refused for lack of silos."""
    context, vectors = make_round(n, **rules), random_vectors(n, LENGTH, 16, seed=n)
    network = Network(context, vectors, dict(enumerate(pattern)))
    order = [STEPS.index(step) for step in pattern]
    survivors = [k for k in range(n) if order[k] > STEPS.index("mask")]
    voters = [k for k in range(n) if order[k] > STEPS.index("agree")]
    finishers = [k for k in range(n) if order[k] > STEPS.index("reveal")]
    enough = (
        len(survivors) >= context.minimum
        and len(voters) >= context.threshold
        and len(finishers) >= context.threshold
    )
    if finishers and not enough:
        with pytest.raises(ThresholdError):
            network.run()
    try:
        results = network.run() if enough or not finishers else {}
    except ThresholdError:
        assert not finishers  # those who die later were refused before
        results = {}
    check_reveals(network)
    if not results:
        return "refused"
    assert sorted(results) == finishers
    assert network.survivors == set(survivors)
    for result in results.values():
        np.testing.assert_array_equal(result, plain_sum(vectors, survivors), err_msg=str(pattern))
    return "exact"


def check_reveals(network):
    """Whatever happened: of no silo were shares of both secrets told, of no survivor's key any."""
    for silo, data in network.sent.get("reveal", {}).items():
        for dealer, kind, _ in Reveal.decode(data, silo).shares:
            assert kind == (SEED_SHARE if dealer in network.survivors else KEY_SHARE)


def patterns(n, count):
    """All timetables of n deaths, or `count` of them drawn without repetition."""
    every = len(STEPS) ** n
    chosen = range(every) if count is None else random.Random(n).sample(range(every), count)
    for number in chosen:
        yield tuple(STEPS[number // len(STEPS) ** k % len(STEPS)] for k in range(n))


COUNTS = [(3, None), (4, 100), (5, 100), (4, 300), (5, 400), (6, 300)]


@pytest.mark.covering(0)
@pytest.mark.parametrize(("n", "count"), mostly_long(COUNTS, 0, 1, 2))
def test_every_pattern_of_deaths(n, count, monkeypatch):
    remember_verifications(monkeypatch)
    outcomes = [check_pattern(n, pattern, threshold=n // 2 + 1) for pattern in patterns(n, count)]
    assert outcomes.count("exact") > 0
    assert outcomes.count("refused") > 0


@pytest.mark.parametrize("n", mostly_long([4, 5, 6], 1))
def test_few_deaths_at_every_step(n, monkeypatch):
    """Uniform patterns are mostly fatal; these, with up to two deaths, are mostly not."""
    remember_verifications(monkeypatch)
    exact = 0
    for pair in itertools.combinations(range(n), 2):
        for steps in itertools.product(STEPS, repeat=2):
            if sum(pair) % (n - 3):
                continue
            pattern = ["never"] * n
            for silo, step in zip(pair, steps, strict=True):
                pattern[silo] = step
            exact += check_pattern(n, pattern, threshold=n // 2 + 1) == "exact"
    assert exact > 60


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("allow_two", [False, True])
@pytest.mark.parametrize("n", [3, 4, 5, 6])
def test_every_pattern_of_deaths_exhaustively(n, allow_two, monkeypatch):
    remember_verifications(monkeypatch)
    for pattern in patterns(n, None):
        check_pattern(n, pattern, threshold=n // 2 + 1, allow_two=allow_two)


def test_a_sparse_graph_recovers_its_dropouts(monkeypatch):
    remember_verifications(monkeypatch)
    bounds = Bounds(colluding=0.1, dropping=0.1, security_bits=3, correctness_bits=3, complete_up_to=4)
    n = 20
    vectors = random_vectors(n, LENGTH, 16)
    dies = {3: "share", 7: "mask", 12: "reveal"}
    network = Network(make_round(n, bounds=bounds), vectors, dies)
    results = network.run()
    participants = network.stages[0].masking.participants
    assert {len(peers) for peers in participants.neighbours.values()} < set(range(n - 1))
    survivors = set(range(n)) - {3, 7}
    for result in results.values():
        np.testing.assert_array_equal(result, plain_sum(vectors, survivors))


def test_members_are_a_part_of_the_roster():
    vectors = random_vectors(6, LENGTH, 16)
    members = (1, 2, 4, 5)
    results = Network(make_round(6, members=members), {k: vectors[k] for k in members}).run()
    np.testing.assert_array_equal(results[4], sum(vectors[k] for k in members))
