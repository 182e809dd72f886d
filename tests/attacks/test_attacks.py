"""Attacks for rehearsal: against the papers in plain NumPy, in runs of threads, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import TensorDataset

from silofl import config as configuration
from silofl.attacks.backdoor import Backdoor
from silofl.attacks.base import Insight
from silofl.attacks.label_flip import LabelFlip
from silofl.attacks.registry import ATTACKS
from silofl.comm.threads import run_in_threads
from silofl.errors import ConfigError
from silofl.federation.backdoor_metric import evaluated, refuse_unknown_target
from silofl.federation.early_checks import Start, attack
from silofl.federation.loop import train
from silofl.tasks import build
from silofl.tasks.base import OnePassTask
from silofl.tasks.user_code import UserCode
from tests.strategies import naive
from tests.strategies.test_federated import LR, STEPS, Softmax

ROUNDS = 3
KINDS: dict[str, Any] = {name: kind for name, kind in ATTACKS.items() if name != "none"}


def insight(seed: int = 0, silos: int = 10) -> Insight:
    own, *others = np.random.default_rng(seed).standard_normal((3, 5))
    return Insight(own, {2: own, 4: others[0], 7: others[1]}, silos, 3, np.random.default_rng(9))


def drawn(deviation: float) -> Any:
    return deviation * np.random.default_rng(9).standard_normal(5)


REFERENCES: list[tuple[str, dict[str, Any], Any]] = [
    ("sign_flip", {"scale": 3.0}, lambda own, rows: -3 * own),
    ("gaussian", {"deviation": 200.0}, lambda own, rows: drawn(200)),
    ("alie", {"z": 1.5}, lambda own, rows: rows.mean(0) - 1.5 * rows.std(0)),
    (  # 10 silos and 3 attackers need 3 of the 7 others, so that 4 / 7 may be nearer to the mean
        "alie",
        {},
        lambda own, rows: rows.mean(0) - NormalDist().inv_cdf(4 / 7) * rows.std(0),
    ),
    ("inner_product", {"epsilon": 0.2}, lambda own, rows: -0.2 * rows.mean(0)),
    ("mimic", {}, lambda own, rows: rows[0]),
    ("mimic", {"target": 7}, lambda own, rows: rows[2]),
    ("free_rider", {}, lambda own, rows: 0 * own),
    ("free_rider", {"deviation": 0.1}, lambda own, rows: drawn(0.1)),
    ("not_a_number", {}, lambda own, rows: np.full(5, np.nan)),
    ("backdoor", {}, lambda own, rows: own * 10 / 3),
    ("backdoor", {"boost": 4.0}, lambda own, rows: own * 4),
    ("label_flip", {}, lambda own, rows: own),
]


@pytest.mark.parametrize(("name", "keys", "reference"), REFERENCES, ids=lambda one: str(one)[:40])
def test_what_is_sent_is_as_in_the_paper(name: str, keys: dict[str, Any], reference: Any) -> None:
    known = insight()
    before = known.rows().copy()
    found = KINDS[name](silos=(1,), **keys).forge(known)
    np.testing.assert_allclose(found, reference(known.own, before), rtol=0, atol=1e-10)
    assert np.array_equal(known.rows(), before)


def test_every_attack_has_a_reference_and_a_paper() -> None:
    assert {name for name, _, _ in REFERENCES} == set(KINDS)
    assert all(kind.paper for kind in KINDS.values())


def test_labels_are_turned_round() -> None:
    x, y = np.zeros((3, 2)), np.array([0, 1, 3])
    found = LabelFlip(classes=4).poison(x, y, np.random.default_rng(0))
    assert found[1].tolist() == [3, 2, 0]
    assert y.tolist() == [0, 1, 3]
    with pytest.raises(ValueError, match=r"^attack\.classes = 3 and labels are no integers from 0 to 2"):
        LabelFlip(classes=3).poison(x, y, np.random.default_rng(0))


@pytest.mark.parametrize("shape", [(4, 6), (4, 1, 5, 5)])
def test_half_of_the_samples_have_the_patch_and_its_label(shape: tuple[int, ...]) -> None:
    x, y = np.zeros(shape, np.float32), np.ones(4, np.int64)
    samples, labels = Backdoor(target=7, patch=3).poison(x, y, np.random.default_rng(0))
    assert sorted(labels) == [1, 1, 7, 7]
    assert samples.reshape(4, -1).sum(1)[labels == 7].tolist() == [3 ** (len(shape) // 2)] * 2
    assert not samples[labels == 1].any()
    assert not x.any()


@pytest.mark.parametrize(
    ("samples", "labels"),
    [((4, 1, 2, 6), np.int64), ((4, 2), np.int64), ((4, 6), np.float32)],
)
def test_a_patch_that_does_not_go_into_samples_is_refused(samples: Any, labels: Any) -> None:
    with pytest.raises(ValueError, match=r"^attack\.patch = 3 does not go into samples"):
        Backdoor(patch=3).poison(np.zeros(samples), np.ones(4, labels), np.random.default_rng(0))


@pytest.mark.parametrize("target", [9, 10, 77])
def test_a_target_that_is_no_class_is_refused_of_the_attacker(target: int) -> None:
    table = {"name": "backdoor", "silos": [1], "target": target}
    config = configuration.parse({"task": {"name": "digits", "model": "linear"}, "attack": table})
    task = build(config)
    refuse_unknown_target(config, task.model(), task.data(0, 4), 0)
    if target < 10:
        refuse_unknown_target(config, task.model(), task.data(1, 4), 1)
        return
    with pytest.raises(
        ConfigError, match=rf"^attack\.target = {target} is no class .* outputs for 0 to 9: set"
    ):
        refuse_unknown_target(config, task.model(), task.data(1, 4), 1)


def test_the_success_of_a_backdoor_is_a_metric_of_the_run() -> None:
    table = {"name": "backdoor", "silos": [1], "target": 3, "patch": 1}
    config = configuration.parse({"task": {"name": "digits", "model": "linear"}, "attack": table})
    task, code = build(config), UserCode(0)
    test, model, weight = task.data(0, 4).test, task.model(), torch.zeros(10, 64)
    assert isinstance(test, TensorDataset)
    weight[3, -1] = 1.0  # the last pixel means 3, and without it all outputs are 0
    model.load_state_dict(dict(zip(model.state_dict(), (weight, torch.zeros(10)), strict=True)))
    kind = evaluated(task, config, code)
    assert isinstance(kind, OnePassTask)
    found: Any = kind.evaluate(model, test.tensors)
    labels = test.tensors[1]
    assert found["backdoor"].numerator == found["backdoor"].denominator == (labels != 3).sum()
    without = evaluated(task, configuration.parse({}), code)
    assert without is task
    plain = task.metrics(model, test.tensors)
    assert {name: found[name] for name in plain} == plain


def configured(path: Path, table: dict[str, Any], **sections: Any) -> Any:
    tables: dict[str, Any] = {
        "run": {"name": "f", "dir": str(path), "display": "none", "rounds": ROUNDS},
        "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
        "secure": {"protocol": "plain"},
        "attack": table,
    }
    return configuration.parse(tables | sections)


def run(config: Any) -> Any:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        return train(config, Softmax(), comm=comm)

    run_in_threads(4, rank, timeout_s=60)
    return load_file(Path(config.run.dir) / "model.safetensors")["weight"].ravel()


def reference(forge: Any) -> Any:
    """FedAvg in which `forge` makes the updates of silos 1 and 3 of all silos'."""
    data, x = naive.silos(), np.zeros(naive.SIZE)
    samples = [len(y) for _, y in data]
    for _ in range(ROUNDS):
        sent = np.array([naive.descend(one, x, LR, STEPS) - x for one in data])
        honest = sent.copy()
        sent[1], sent[3] = forge(honest)
        x = x + np.average(sent, axis=0, weights=samples)
    return x


def collude(rows: Any) -> Any:
    return [-0.5 * rows[[1, 3]].mean(0)] * 2


def know_all(rows: Any) -> Any:
    return [-0.5 * rows[[0, 2]].mean(0)] * 2


@pytest.mark.parametrize(
    ("omniscient", "forge", "protocol"),
    [(False, collude, "secagg"), (True, know_all, "plain")],
)
def test_attackers_forge_what_they_learnt_together(
    tmp_path: Path, omniscient: bool, forge: Any, protocol: str
) -> None:
    table = {"name": "inner_product", "silos": [1, 3], "omniscient": omniscient}
    found = run(
        configured(
            tmp_path,
            table,
            secure={"protocol": protocol, "bits": 32} if protocol != "plain" else {"protocol": "plain"},
        )
    )
    np.testing.assert_allclose(found, reference(forge), rtol=0, atol=1e-6 if protocol != "plain" else 1e-9)
    said = json.loads((tmp_path / "summary.json").read_text())["attack"]
    assert said == "REHEARSAL, the model is spoiled on purpose: silos 1, 3 attack by inner_product"


def test_a_silo_that_sends_no_numbers_is_left_out_by_name(tmp_path: Path) -> None:
    robust = {"name": "median", "f": 1}
    run(configured(tmp_path, {"name": "not_a_number", "silos": [2]}, robust=robust))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["rejected"] for line in lines] == [[2]] * ROUNDS
    assert json.loads((tmp_path / "summary.json").read_text())["rejected"] == [[1, 2], [2, 2], [3, 2]]


@pytest.mark.parametrize(
    ("table", "sections", "said"),
    [
        ({"silos": []}, {}, r"^attack\.silos = \[\] and the silos are 0 to 3: name one or more"),
        ({"silos": [4]}, {}, r"^attack\.silos = \[4\] and the silos are 0 to 3"),
        (
            {"silos": [1], "omniscient": True},
            {"secure": {"protocol": "secagg"}},
            r"^attack\.omniscient = true shows updates that secure\.protocol = \"secagg\" hides",
        ),
        ({"silos": [0, 1, 2, 3], "omniscient": True}, {}, "leaves none to know of"),
        (
            {"name": "sign_flip", "silos": [1], "omniscient": True},
            {},
            r"^attack\.name = \"sign_flip\" makes no use of other silos' updates: remove attack\.omniscient",
        ),
        ({"name": "alie", "silos": [1]}, {}, r"of one, of attack\.silos = \[1\], there is none"),
        ({"name": "alie", "silos": [1], "omniscient": True}, {}, r"^attack\.z unset is 0 where 1 of 4 silos"),
        ({"name": "mimic", "silos": [1]}, {}, "alone sends its own update: name"),
        ({"name": "mimic", "silos": [1, 2], "target": 3}, {}, r"what silo attack\.target = 3 sends"),
        (
            {"name": "not_a_number", "silos": [1]},
            {"secure": {"protocol": "secagg"}},
            "sends values that no ring has a word for",
        ),
        (
            {"silos": [1]},
            {"privacy": {"unit": "silo", "noise_multiplier": 1.0}, "secure": {"protocol": "secagg"}},
            r"rehearses, and a run with \[privacy\] spends epsilon of real data",
        ),
        ({"silos": [1]}, {"strategy": {"name": "streaming_diloco"}}, "sums something else"),
    ],
    ids=str,
)
def test_a_rehearsal_that_cannot_be_is_refused_early(
    tmp_path: Path, table: Any, sections: Any, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        attack(Start(configured(tmp_path, {"name": "inner_product"} | table, **sections), 4))
