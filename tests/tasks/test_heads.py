"""Heads against scikit-learn, and against what their papers say, in plain Python."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    mean_absolute_error,
    r2_score,
    roc_auc_score,
    root_mean_squared_error,
)
from sklearn.utils.class_weight import compute_class_weight

from silofl.config import DataConfig, TaskConfig
from silofl.errors import DataError
from silofl.tasks import build, heads
from silofl.tasks.column_agreement import agree_in_one_process
from silofl.tasks.heads import HEADS, Head
from silofl.tasks.heads.base import Labels
from silofl.tasks.target_recipe import TargetRecipe
from silofl.tasks.user_code import UserCode
from silofl.training.metric_states import Evaluation
from tests.tasks.heads import SILOS, TARGETS, columns, settings, written

RNG = np.random.default_rng(0)
ROWS = 90


def head_of(kind: str) -> tuple[Head, Labels]:
    """One with a recipe, and targets as they are read."""
    if kind == "classification":
        head = HEADS[kind](("a", "b"), TargetRecipe(weights=(0.5, 2.0)))
        return head, RNG.integers(0, 2, ROWS)
    if kind == "regression":
        return HEADS[kind](("y",), TargetRecipe(1e6, 250.0)), 1e6 + 250 * RNG.normal(size=(ROWS, 1))
    if kind == "multilabel":
        labels = RNG.integers(0, 2, (ROWS, 3)).astype(float)
        return HEADS[kind](("a", "b", "c"), TargetRecipe(weights=(1.0, 3.0, 0.5))), labels
    labels = np.column_stack([RNG.exponential(20, ROWS).round(), RNG.integers(0, 2, ROWS)])
    ends = (5.0, 10.0, 30.0)
    return HEADS[kind](("5", "10", "30"), TargetRecipe(ends=ends), intervals=3), labels  # type: ignore[call-arg]


def metrics_of(head: Head, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    """As evaluation makes them: by batches, added up and finished."""
    found = Evaluation()
    for start in range(0, len(outputs), 16):
        part = outputs[start : start + 16], targets[start : start + 16]
        found.add(head.metrics(*part), len(part[0]), 0)
    found.finish(UserCode(0))
    return {name: value for name, value in found.own.items() if value is not None}


def naive_loss(kind: str, head: Head, output: Any, label: Any) -> float:
    """One example's, from the formula."""

    def bce(logit: float, y: float, weight: float = 1.0) -> float:
        p = 1 / (1 + math.exp(-logit))
        return -math.log(p) * weight if y else -math.log(1 - p)

    if kind == "classification":
        return -math.log(math.exp(output[label]) / sum(map(math.exp, output))) * head.recipe.weights[label]
    if kind == "regression":
        return float((output[0] - (label[0] - 1e6) / 250) ** 2)
    if kind == "multilabel":
        return sum(map(bce, output, label, head.recipe.weights)) / 3
    time, event = label
    total, start = 0.0, 0.0
    for logit, end in zip(output, head.recipe.ends, strict=True):
        if (event and start < time <= end) or (event and time == start == 0):
            return total + bce(logit, 1)
        if time > end or (not event and time >= (start + end) / 2):
            total += bce(logit, 0)
        start = end
    return total


@pytest.mark.parametrize("kind", HEADS)
def test_losses_are_those_of_the_formula_and_of_one_example_each(kind: str) -> None:
    head, labels = head_of(kind)
    outputs = torch.from_numpy(RNG.normal(size=(ROWS, head.outputs))).requires_grad_()
    targets = head.targets(labels)
    losses = head.losses(outputs, targets)
    expected = [naive_loss(kind, head, *pair) for pair in zip(outputs.tolist(), labels.tolist(), strict=True)]
    assert np.allclose(
        losses.detach().numpy(), expected, rtol=0, atol=1e-6 if kind == "regression" else 1e-12
    )
    (gradient,) = torch.autograd.grad(losses[7], outputs, retain_graph=True)
    assert gradient[7].any()
    assert not gradient[:7].any()
    assert not gradient[8:].any()
    one_by_one = torch.vmap(lambda o, t: head.losses(o[None], t[None])[0])(outputs, targets)
    assert torch.allclose(one_by_one, losses, rtol=0, atol=1e-14)


def test_metrics_of_a_regression_are_scikit_learns_in_the_targets_units() -> None:
    head, labels = head_of("regression")
    outputs, targets = torch.from_numpy(RNG.normal(size=(ROWS, 1))), head.targets(labels)
    said, true = (head.in_units(one).numpy() for one in (outputs, targets))
    expected = {
        "mae": mean_absolute_error(true, said),
        "rmse": root_mean_squared_error(true, said),
        "r2": r2_score(true, said),
    }
    assert metrics_of(head, outputs, targets) == pytest.approx(expected, rel=1e-9)
    assert np.allclose(true, labels, rtol=1e-9)


def test_metrics_of_labels_are_scikit_learns() -> None:
    head, labels = head_of("multilabel")
    scores = np.array([RNG.permutation(ROWS) for _ in range(3)]).T / ROWS + 1 / (2 * ROWS)
    outputs, y = torch.from_numpy(np.log(scores / (1 - scores))), labels.astype(int)
    found = metrics_of(head, outputs, head.targets(labels))
    each = {f"auc/{name}": roc_auc_score(y[:, k], scores[:, k]) for k, name in enumerate("abc")}
    expected = {
        "auc": roc_auc_score(y, scores, average="macro"),
        "f1": f1_score(y, scores > 0.5, average="macro"),
        "subset_accuracy": accuracy_score(y, scores > 0.5),
        **each,
    }
    assert found == pytest.approx(expected, rel=1e-9)


def test_two_classes_have_auc_and_three_have_none() -> None:
    head, labels = head_of("classification")
    scores = RNG.permutation(ROWS) / ROWS + 1 / (2 * ROWS)
    logits = np.column_stack([np.zeros(ROWS), np.log(scores / (1 - scores))])
    found = metrics_of(head, torch.from_numpy(logits), head.targets(labels))
    expected = {"accuracy": accuracy_score(labels, scores > 0.5), "auc": roc_auc_score(labels, scores)}
    assert found == pytest.approx(expected, rel=1e-9)
    three = HEADS["classification"](("a", "b", "c"))
    assert metrics_of(three, torch.zeros(4, 3), torch.arange(4) % 3) == {"accuracy": 0.5}


def test_concordance_is_harrells_over_all_pairs_by_interval() -> None:
    head, labels = head_of("survival")
    outputs = torch.from_numpy(RNG.normal(size=(ROWS, 3)))
    targets = head.targets(labels)
    risk = np.floor(head.decided(outputs.numpy()) * 1024)
    place, event = targets[:, 2].numpy(), targets[:, 1].numpy()
    pairs = [(i, j) for i in range(ROWS) for j in range(ROWS) if event[i] and place[i] < place[j]]
    right = sum(risk[i] > risk[j] for i, j in pairs) + sum(risk[i] == risk[j] for i, j in pairs) / 2
    assert metrics_of(head, outputs, targets) == pytest.approx({"c_index": right / len(pairs)}, rel=1e-9)


def test_survival_is_the_product_of_what_hazards_leave() -> None:
    head, _ = head_of("survival")
    logits = RNG.normal(size=(5, 3))
    survival = np.cumprod(1 - 1 / (1 + np.exp(-logits)), axis=1)
    assert np.allclose(head.probabilities(logits), survival, rtol=1e-12)
    assert np.allclose(head.decided(logits), 1 - survival.mean(axis=1), rtol=1e-12)
    assert [name for name, _ in head.told(logits)] == ["risk", "survival 5", "survival 10", "survival 30"]


def agreed(folder: Path, kind: str, **sections: dict[str, Any]) -> tuple[TargetRecipe, np.ndarray]:
    """What silos find together, and all their training targets."""
    written(folder, kind)
    config = settings(folder, kind, **sections)
    tasks: dict[int, Any] = {silo: build(config) for silo in range(SILOS)}
    for silo, task in tasks.items():
        task.read(silo)
    labels = [task.read(silo).labels[~task._held_out(task.read(silo))] for silo, task in tasks.items()]
    return agree_in_one_process(tasks, 0).target, np.concatenate(labels)


def test_a_target_is_standardized_as_one_tables(tmp_path: Path) -> None:
    recipe, labels = agreed(tmp_path, "regression")
    assert recipe.center == pytest.approx(labels.mean(), rel=1e-12)
    assert recipe.scale == pytest.approx(labels.std(), rel=1e-12)


def test_balanced_weights_are_those_of_one_table(tmp_path: Path) -> None:
    recipe, labels = agreed(tmp_path, "classification", task={"class_weights": "balanced"})
    expected = compute_class_weight("balanced", classes=np.arange(2), y=labels)
    assert recipe.weights == pytest.approx(expected, rel=1e-12)
    recipe, labels = agreed(tmp_path, "multilabel", task={"class_weights": "balanced"})
    assert recipe.weights == pytest.approx((1 - labels).sum(0) / labels.sum(0), rel=1e-12)


def test_intervals_have_equally_many_events(tmp_path: Path) -> None:
    recipe, labels = agreed(tmp_path, "survival", task={"intervals": 5})
    times = labels[labels[:, 1] > 0, 0]
    counts = np.histogram(times, [0, *recipe.ends])[0]
    assert len(recipe.ends) == 5
    assert np.abs(counts - len(times) / 5).max() < len(times) / 40


def test_what_has_no_weight_is_one_sentence(tmp_path: Path) -> None:
    more = {"class_weights": "balanced", "labels": ["no", "yes", "never"]}
    with pytest.raises(DataError, match="no silo has a training record of class 'never'"):
        agreed(tmp_path, "classification", task=more)
    with pytest.raises(DataError, match="too few different times for so many intervals"):
        agreed(tmp_path, "survival", task={"intervals": 50})


@pytest.mark.parametrize("kind", HEADS)
def test_roles_are_of_values_and_targets_alone(tmp_path: Path, kind: str) -> None:
    written(tmp_path, kind)
    names = [TARGETS[kind]] if isinstance(TARGETS[kind], str) else TARGETS[kind]
    config = settings(tmp_path, kind, data={"standardize": False})
    data = build(config).data(0, SILOS)
    assert len(data.train) + len(data.test or ()) == len(columns(kind, 0)[names[0]])
    assert 10 < len(data.test or ()) < 40


def test_a_recipe_of_a_target_is_read_as_it_was_written_or_not_at_all() -> None:
    made = TargetRecipe(0.1, 1e-300, (0.5, 3.0), (1.0, 2.5))
    assert TargetRecipe.from_json(made.to_json()) == made
    wrong: list[dict[str, Any]] = [
        {"scale": 0.0},
        {"ends": [2.0, 1.0]},
        {"ends": [-1.0]},
        {"weights": [0.0]},
        {"center": math.nan},
        {"center": "1"},
        {"more": 1},
    ]
    for one in wrong:
        with pytest.raises((ValueError, TypeError)):
            TargetRecipe.from_json(made.to_json() | one)


def test_a_target_that_float32_has_no_room_for_is_refused() -> None:
    head = heads.head_of(
        TaskConfig(name="files", head="regression"), DataConfig(target="y", scale={"y": 1e-300})
    )
    with pytest.raises(DataError, match="column 'y', the target, has 2 value"):
        head.targets(np.array([[1.0], [0.0], [-1.0]]))


@pytest.mark.parametrize("head", ["classification", "multilabel"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -3.0, 1e280, 2.5])
def test_counts_that_no_records_have_weigh_nothing(head: str, bad: float) -> None:
    more: Any = {"classes": 2} if head == "classification" else {}
    target = "y" if head == "classification" else ["y", "z"]
    task = TaskConfig(name="files", head=head, class_weights="balanced", **more)
    labels = np.array([0, 1, 1]) if head == "classification" else np.array([[0.0, 1], [1, 0], [1, 1]])
    agreement = heads.head_of(task, DataConfig(target=target)).agreement(labels)
    summand = next(agreement)
    with pytest.raises(DataError, match="what all silos' counts add up to no records can have"):
        agreement.send(np.append(bad, summand[1:]))
