"""Gradient inversions: their parts against plain NumPy, examples recovered from small gradients, refusals."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

from silofl.privacy_attacks.candidate_weights import candidate_weights
from silofl.privacy_attacks.inversion._labels import labels_of
from silofl.privacy_attacks.inversion.base import Public, by_name, each_gradient, gradient_of
from silofl.privacy_attacks.inversion.candidate_matching import CandidateMatching
from silofl.privacy_attacks.inversion.cosine_matching import CosineMatching, cosine, total_variation
from silofl.privacy_attacks.inversion.deep_leakage import DeepLeakage, squared
from silofl.privacy_attacks.inversion.first_layer import FirstLayer
from silofl.privacy_attacks.inversion.registry import INVERSIONS
from silofl.tasks.models import cnn, mlp

SHAPE, CLASSES, UNITS = (1, 3, 3), 4, 5
ATTACKS: dict[str, tuple[Any, float]] = {
    "first_layer": (FirstLayer(), 1e-10),
    "deep_leakage": (DeepLeakage(restarts=2), 1e-4),
    "candidate_matching": (CandidateMatching(), 1e-12),
    "cosine_matching": (CosineMatching(variation=0.0, steps=400, restarts=1), 2e-2),
}


def made(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return mlp(9, [UNITS], CLASSES).double()


def examples(count: int, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    return rng.random((count, *SHAPE)), rng.integers(0, CLASSES, count)


def by_hand(module: nn.Module, x: Any, y: Any) -> list[Any]:
    """Gradients of an MLP with one hidden layer, by backpropagation in NumPy."""
    w1, b1, w2, b2 = (one.detach().numpy() for one in module.parameters())
    flat = x.reshape(len(x), -1)
    before = flat @ w1.T + b1
    hidden = np.maximum(before, 0)
    logits = hidden @ w2.T + b2
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    delta = (p - np.eye(CLASSES)[y]) / len(x)
    inner = (delta @ w2) * (before > 0)
    return [inner.T @ flat, inner.sum(0), delta.T @ hidden, delta.sum(0)]


def of(module: nn.Module, x: Any, y: Any) -> dict[str, torch.Tensor]:
    return by_name(module, np.concatenate([one.ravel() for one in by_hand(module, x, y)]))


def looked_for(name: str, module: nn.Module, x: Any, y: Any) -> Public:
    """What is public, with candidates of which the last are the examples."""
    others, labels = examples(30, seed=9)
    candidates = np.concatenate([others, x]), np.concatenate([labels, y])
    known = {"candidates": candidates} if name == "candidate_matching" else {}
    return Public(module, SHAPE, CLASSES, len(y), **known)


def test_every_inversion_is_tested() -> None:
    assert ATTACKS.keys() == INVERSIONS.keys()
    assert all(type(attack) is INVERSIONS[name] for name, (attack, _) in ATTACKS.items())


def test_gradients_and_their_distances_are_those_of_numpy() -> None:
    module, (x, y), (other, labels) = made(), examples(3), examples(2, seed=2)
    found = gradient_of(module, torch.from_numpy(x), torch.from_numpy(y))
    one, two = by_hand(module, x, y), by_hand(module, other, labels)
    for values, expected in zip(found.values(), one, strict=True):
        np.testing.assert_allclose(values.detach().numpy(), expected, atol=1e-12)
    a, b = (np.concatenate([part.ravel() for part in parts]) for parts in (one, two))
    against = of(module, other, labels)
    assert float(squared(found, against).detach()) == pytest.approx(((a - b) ** 2).sum(), abs=1e-12)
    expected = a @ b / np.sqrt((a @ a) * (b @ b))
    assert float(cosine(found, against).detach()) == pytest.approx(expected, abs=1e-12)
    sides = [np.abs(np.diff(x, axis=axis)).mean() for axis in (2, 3)]
    assert float(total_variation(torch.from_numpy(x))) == pytest.approx(sum(sides), abs=1e-12)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_example_is_recovered_and_nothing_is_changed(name: str) -> None:
    (attack, error), module, (x, y) = ATTACKS[name], made(), examples(1)
    gradient = of(module, x, y)
    kept = deepcopy((module.state_dict(), gradient))
    public = looked_for(name, module, x, y)
    found = attack.examples(gradient, public, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.examples, x, atol=error)
    assert found.labels is None or found.labels.tolist() == y.tolist()
    for before, after in zip(kept, (module.state_dict(), gradient), strict=True):
        assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", [name for name in ATTACKS if name != "candidate_matching"])
def test_noise_that_is_as_long_as_the_gradient_leaves_nothing(name: str) -> None:
    (attack, error), module, (x, y) = ATTACKS[name], made(), examples(1)
    vector = np.concatenate([one.ravel() for one in by_hand(module, x, y)])
    noise = np.random.default_rng(3).standard_normal(len(vector))
    noisy = by_name(module, vector + noise * np.linalg.norm(vector) / np.linalg.norm(noise))
    found = attack.examples(noisy, Public(module, SHAPE, CLASSES), torch.Generator().manual_seed(0))
    assert np.abs(found.examples - x).max() > 0.2 > 5 * error


def test_of_several_a_unit_that_one_activates_shows_it_and_others_show_mixtures() -> None:
    module, (x, y) = made(), examples(2)
    weights, bias = (one.detach() for one in list(module.parameters())[:2])
    flat = torch.from_numpy(x.reshape(2, -1))
    apart = flat[0] - flat[1]  # a unit that is active on the side of the first alone
    weights[2], bias[2] = apart, -(apart @ (flat[0] + flat[1])) / 2
    weights[4].abs_()  # one that both activate
    bias[4] = 1.0
    public = Public(module, SHAPE, CLASSES, examples=1)
    found = FirstLayer().examples(of(module, x, y), public, torch.Generator()).examples
    every = FirstLayer().candidates(of(module, x, y), public).reshape(-1, *SHAPE)
    assert any(np.allclose(one, x[0], atol=1e-9) for one in every)
    assert any(np.abs(one[None] - x).max(axis=(1, 2, 3)).min() > 1e-3 for one in every)
    assert len(found) == 1


def test_with_noise_all_units_of_a_first_layer_are_fitted_at_once() -> None:
    module, (x, y), errors = made(), examples(1), list[float]()
    exact, rng = by_hand(module, x, y), np.random.default_rng(0)
    scale = 0.05 * np.linalg.norm(exact[1])
    for noise in rng.standard_normal((20, 74)) * scale:
        noisy = by_name(module, np.concatenate([one.ravel() for one in exact]) + noise)
        weight, bias = (one.numpy() for one in list(noisy.values())[:2])
        fit, *_ = np.linalg.lstsq(bias[:, None], weight, rcond=None)
        public = Public(module, SHAPE, CLASSES, noise=scale)
        first = FirstLayer().candidates(noisy, public)
        np.testing.assert_allclose(first[:1], fit, rtol=1e-9)
        alone = FirstLayer().candidates(noisy, Public(module, SHAPE, CLASSES))[0]
        errors.append(float(np.linalg.norm(first[0] - x.ravel()) - np.linalg.norm(alone - x.ravel())))
    assert np.mean(errors) < 0


def test_gradients_of_each_are_those_of_numpy_and_are_clipped() -> None:
    module, (x, y) = made().float(), examples(6)
    expected = [
        np.concatenate([one.ravel() for one in by_hand(module.double(), x[k : k + 1], y[k : k + 1])])
        for k in range(6)
    ]
    np.testing.assert_allclose(each_gradient(module, x, y), expected, atol=1e-12)
    lengths = np.linalg.norm(expected, axis=1)
    clip = float(np.median(lengths))
    clipped = [one * min(1.0, clip / length) for one, length in zip(expected, lengths, strict=True)]
    np.testing.assert_allclose(each_gradient(module, x, y, clip), clipped, atol=1e-12)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_weights_in_a_sum_are_the_best_linear_estimate(noise: float) -> None:
    rng, part = np.random.default_rng(0), 0.25
    rows, inside = rng.standard_normal((20, 50)), rng.random(20) < part
    total = inside @ rows + noise * rng.standard_normal(50)
    found = candidate_weights(rows, total, part, noise)
    if noise:  # the mean of a normal posterior, by covariances of the sum's values
        variance = part * (1 - part)
        covariance = variance * rows.T @ rows + noise**2 * np.eye(50)
        gain = variance * rows @ np.linalg.inv(covariance)
        np.testing.assert_allclose(found, part + gain @ (total - part * rows.sum(0)), atol=1e-9)
    else:
        solved, *_ = np.linalg.lstsq(rows.T, total, rcond=None)
        np.testing.assert_allclose(found, solved, atol=1e-6)
        np.testing.assert_allclose(found, inside, atol=1e-6)


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_a_sum_of_many_tells_which_candidates_are_in_it(model: str) -> None:
    torch.manual_seed(0)
    convolutions = nn.Sequential(nn.Conv2d(1, 8, 2), nn.ReLU(), nn.Flatten(), nn.Linear(32, CLASSES))
    module = made() if model == "mlp" else convolutions
    x, y = examples(12)
    public = looked_for("candidate_matching", module.double(), x, y)
    gradient = gradient_of(module, torch.from_numpy(x), torch.from_numpy(y))
    told = {name: one.detach() for name, one in gradient.items()}
    found = CandidateMatching().examples(told, public, torch.Generator())
    pairs = sorted(zip(found.examples.ravel()[::9], found.labels.tolist(), strict=True))
    assert pairs == sorted(zip(x.ravel()[::9], y.tolist(), strict=True))


def test_of_one_noisy_example_candidates_are_ordered_by_likelihood() -> None:
    module, (x, y) = made(), examples(1)
    public = replace(looked_for("candidate_matching", module, x, y), clip=2.0, noise=0.1)
    assert public.candidates is not None
    rows = each_gradient(module, *public.candidates, 2.0)
    for noise in np.random.default_rng(2).standard_normal((3, 74)):
        seen = rows[-1] + 0.1 * noise
        scores = CandidateMatching().scores(by_name(module, seen), public)
        logs = norm.logpdf(seen, rows, 0.1).sum(axis=1)
        np.testing.assert_allclose((scores - scores[0]) / 0.01, logs - logs[0], atol=1e-9)


@pytest.mark.parametrize("y", [[2], [0, 0], [3, 1], [1, 1, 3]])
def test_labels_are_read_off_the_last_bias(y: list[int]) -> None:
    module = made()
    x, _ = examples(len(y))
    public = Public(module, SHAPE, CLASSES, examples=len(y))
    assert labels_of(of(module, x, np.array(y)), public).tolist() == sorted(y)


def test_what_cannot_be_inverted_so_is_refused() -> None:
    convolutions = cnn(1, 8, 8, CLASSES)
    gradient = {name: torch.ones_like(one) for name, one in convolutions.named_parameters()}
    with pytest.raises(ValueError, match="first layer is no linear one"):
        FirstLayer().examples(gradient, Public(convolutions, (1, 8, 8), CLASSES), torch.Generator())
    with pytest.raises(ValueError, match="there are no candidates"):
        CandidateMatching().examples({}, Public(made(), SHAPE, CLASSES), torch.Generator())
    silent = nn.Sequential(nn.Flatten(), nn.Linear(9, CLASSES, bias=False))
    with pytest.raises(ValueError, match="does not end with a linear layer with a bias"):
        labels_of({"1.weight": torch.ones(CLASSES, 9)}, Public(silent, SHAPE, CLASSES))
    with pytest.raises(ValueError, match="of 3 values is not of a model of 74"):
        by_name(made(), np.ones(3))
