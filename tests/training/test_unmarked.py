"""Optimizers without torch's compiler: the same steps, bit for bit, and the compiler is not loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

from silofl.training import unmarked
from tests.campaigns import mostly_long

KINDS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "ASGD")

COMMAND = """
import sys
from silofl import config as configuration
from silofl.federation.entry import train
from silofl.comm.threads import run_in_threads
sections = {"run": {"dir": sys.argv[1], "display": "none", "rounds": 2}, "task": {"name": "synthetic"}}
config = configuration.parse(sections | {"train": {"steps": 2, "clip_norm": 1.0}})
run_in_threads(3, lambda comm: train(config, comm=comm), timeout_s=100)
print("torch._dynamo" in sys.modules)
"""
AFTERWARDS = """
import torch
print(torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist())
"""


def stepped(kind: str, *, ours: bool) -> list[torch.Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2))
    optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, weight_decay=0.01)
    if ours:
        unmarked.step_unmarked(optimizer)
        assert "step" in vars(optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        model(torch.ones(3, 5)).square().sum().backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_torch(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(unmarked, "COMPILER", "no such module")
    ours, theirs = stepped(kind, ours=True), stepped(kind, ours=False)
    assert all(torch.equal(one, other) for one, other in zip(ours, theirs, strict=True))


def test_hooks_are_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmarked, "COMPILER", "no such module")
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    unmarked.step_unmarked(optimizer)
    seen: list[bool] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    optimizer.register_step_post_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    weight.sum().backward()
    optimizer.step()
    assert seen == [True, True]
    assert weight.tolist() == [0.0, 0.0]


def test_an_optimizer_that_torch_marks_otherwise_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            return super().step(closure)

    monkeypatch.setattr(unmarked, "COMPILER", "no such module")
    optimizer = Own([nn.Parameter(torch.ones(2))], lr=1.0)
    unmarked.step_unmarked(optimizer)
    assert "step" not in vars(optimizer)


@pytest.mark.long
@pytest.mark.parametrize(
    ("more", "said"),
    mostly_long([("", ["False"]), (AFTERWARDS, ["False", "[2.0, 2.0]"])], 0),
    ids=["run", "and a user"],
)
def test_a_run_does_not_load_the_compiler_and_a_user_may_afterwards(
    tmp_path: Any, more: str, said: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COMMAND + more, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.splitlines()[-len(said) :] == said, done.stdout + done.stderr
