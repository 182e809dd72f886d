"""`benchmarks/language_model.py`: both ways see as much text, and what its figures say of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    found = __import__("language_model")
    small = {"SILOS": 3, "CONTEXT": 8, "WIDTH": 16, "LAYERS": 1, "HEADS": 2, "BATCH": 2}
    for name, value in small.items():
        monkeypatch.setattr(found, name, value)
    return found


def texts(study: Any) -> Any:
    drawn = torch.Generator().manual_seed(1)
    windows = torch.randint(0, 3, (4, 12, study.CONTEXT + 1), generator=drawn, dtype=torch.uint8)
    return study.Texts(windows[3], list(windows[:3]), [one[:4] for one in windows[:3]])


@pytest.mark.long
def test_a_step_of_all_silos_is_one_along_the_mean_of_their_gradients(study: Any) -> None:
    given, losses = texts(study), []
    first = study.Decoder().state_dict()
    model = study.begun(first)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    batches = [
        next(study.drawn(one, study.BATCH, torch.Generator().manual_seed(5000 + silo)))
        for silo, one in enumerate(given.train)
    ]
    gradients = [torch.autograd.grad(study.loss_of(model, one), list(model.parameters())) for one in batches]
    for parameter, *each in zip(model.parameters(), *gradients, strict=True):
        parameter.grad = torch.stack(each).mean(0)
    torch.nn.utils.clip_grad_norm_(model.parameters(), study.CLIP_NORM)
    optimizer.step()
    run = study.synchronous(given, first, seed=5, steps=1, lr=0.01)
    losses = [loss for _, loss in run.losses]
    assert losses == pytest.approx([study.validation(model, given)], rel=1e-4)
    assert run.bytes_sent == 2 * (study.SILOS - 1) * 4 * sum(one.numel() for one in model.parameters())


def test_diloco_begins_with_the_public_model_and_counts_what_all_silos_send(
    study: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "STEPS_A_ROUND", 2)
    given = texts(study)
    first = study.public_model(given, 3)
    run = study.diloco(given, first, seed=1, steps=4, lr=1e-9)
    assert [step for step, _ in run.losses] == [4]
    assert run.losses[0][1] == pytest.approx(study.validation(study.begun(first), given), rel=1e-4)
    assert run.bytes_sent > 3 * 4 * sum(values.numel() for values in first.values())


def test_a_decoder_sees_nothing_of_what_it_predicts(study: Any) -> None:
    model, text = study.Decoder(), torch.zeros(1, study.CONTEXT, dtype=torch.long)
    before = model(text)
    text[0, 5] = 7
    changed = (model(text) != before).any(-1)[0]
    assert changed.tolist() == [False] * 5 + [True] * (study.CONTEXT - 5)


def test_its_figures_are_of_pairs_of_seeds(study: Any) -> None:
    told = json.loads((FOLDER / "results" / "language-model.json").read_text())
    runs = [study.Run(**one) for one in told["runs"]]
    assert len(study.pairs(runs)) == len(runs) / 2 >= 2
    for base, other in study.pairs(runs):
        assert base.losses[-1][0] == other.losses[-1][0] == told["steps"]
        assert abs(study.behind(base, other)) < 0.02
        assert base.bytes_sent > 50 * other.bytes_sent
