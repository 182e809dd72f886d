"""A silo fails, rejoins with an older state, and what all share is made anew: against plain references."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from silofl import config as configuration
from silofl.checkpoint.atomic_files import read_tree
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.comm.protocol import SimulatedCrash
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.errors import StoppedError
from silofl.federation import federation as whole
from silofl.federation.failure.fault_injector import FaultInjector
from silofl.federation.loop import train
from silofl.federation.stateful import Json, Part, State
from tests.campaigns import mostly_long
from tests.conftest import ROOT, Start
from tests.federation.rejoining import federate
from tests.federation.threads import records
from tests.strategies import naive
from tests.strategies.naive import SIZE, SIZES, Array
from tests.strategies.test_federated import LR, STEPS, Softmax

ROUNDS, VICTIM, FAILS, BACK = 10, 2, 5, 7
MU = ALPHA = 1.0
CONTRAST = 0.1
ALL = tuple(range(len(SIZES)))
OWN = FAILS - 2
"""The newest round that a silo has committed for certain when it fails."""


@pytest.fixture(autouse=True)
def deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """An injected `kill` ends a thread as SIGKILL ends a process."""

    def die() -> None:
        raise SimulatedCrash

    monkeypatch.setitem(FaultInjector.__init__.__kwdefaults__, "die", die)  # type: ignore[misc]


def settings(path: Path, strategy: str, *inject: str, rounds: int = ROUNDS, **secure: Any) -> Config:
    own: dict[str, Any] = {
        "fedprox": {"mu": MU},
        "feddyn": {"alpha": ALPHA},
        "scaffold-I": {"option": "I"},
        "moon": {"layer": "scores", "mu": CONTRAST},
    }.get(strategy, {})
    return configuration.parse(
        {
            "run": {"name": "f", "dir": str(path), "display": "none", "rounds": rounds},
            "train": {"full_batch": True, "steps": STEPS, "lr": LR, "dtype": "float64"},
            "strategy": {"name": strategy.partition("-")[0], **own},
            "secure": secure,
            "failure": {"policy": "respawn", "inject": list(inject)},
        }
    )


def scaffold(back: int = BACK, option: str = "II") -> Array:
    """SCAFFOLD (Karimireddy et al. 2020, algorithm 1) in which one silo is away, and back in round `back`.

    It comes back with the c_i of round `OWN`; in that round c becomes the mean of all c_i+.
    """
    data, n = naive.silos(), len(SIZES)
    x, c, c_i = np.zeros(SIZE), np.zeros(SIZE), [np.zeros(SIZE) for _ in SIZES]
    kept = np.zeros(SIZE)
    for number in range(1, ROUNDS + 1):
        if number == back:
            c_i[VICTIM] = kept
        here = [k for k in range(n) if k != VICTIM or not FAILS <= number < back]
        dy, dc, plus = [], [], []
        for k in here:
            y = x
            for _ in range(STEPS):
                y = y - LR * (naive.gradient(data[k], y) - c_i[k] + c)
            at_x = naive.gradient(data[k], x)
            plus.append(at_x if option == "I" else c_i[k] - c + (x - y) / (STEPS * LR))
            dy.append(y - x)
            dc.append(plus[-1] - c_i[k])
            c_i[k] = plus[-1]
        x = x + np.mean(dy, axis=0)
        c = np.mean(plus, axis=0) if number == back else c + len(here) / n * np.mean(dc, axis=0)
        if number == OWN:
            kept = c_i[VICTIM]
    return x


def feddyn() -> Array:
    """FedDyn (Acar et al. 2021, algorithm 1), likewise: in that round h becomes the mean of all g_k."""
    data, n = naive.silos(), len(SIZES)
    x, h, g = np.zeros(SIZE), np.zeros(SIZE), [np.zeros(SIZE) for _ in SIZES]
    kept = np.zeros(SIZE)
    for number in range(1, ROUNDS + 1):
        if number == BACK:
            g[VICTIM] = kept
        here = [k for k in range(n) if k != VICTIM or not FAILS <= number < BACK]
        local = []
        for k in here:
            y = x
            for _ in range(STEPS):
                y = y - LR * (naive.gradient(data[k], y) - g[k] + ALPHA * (y - x))
            g[k] = g[k] - ALPHA * (y - x)
            local.append(y)
        change = -ALPHA * np.sum([y - x for y in local], axis=0) / n
        h = np.mean([g[k] for k in here], axis=0) if number == BACK else h + change
        x = np.mean(local, axis=0) - h / ALPHA
        if number == OWN:
            kept = g[VICTIM]
    return x


def moon() -> Array:
    """MOON (Li et al. 2021, algorithm 1), likewise: its own model of before is that of round `OWN`."""
    data, w, kept = naive.silos(), np.zeros(SIZE), np.zeros(SIZE)
    last = list[Array | None]([None] * len(SIZES))
    for number in range(1, ROUNDS + 1):
        if number == BACK:
            last[VICTIM] = kept
        here = [k for k in ALL if k != VICTIM or not FAILS <= number < BACK]
        for k in here:
            x, previous = w, last[k]
            for _ in range(STEPS):
                pull = naive.contrast(data[k][0], x, w, previous, 0.5) if previous is not None else 0
                x = x - LR * (naive.gradient(data[k], x) + CONTRAST * pull)
            last[k] = x
        w = np.average([last[k] for k in here], axis=0, weights=naive.sizes(data, here))
        if number == OWN:
            kept = last[VICTIM]
    return w


def fedprox() -> Array:
    """It has no state of its own to be older."""
    away = tuple(k for k in ALL if k != VICTIM)
    present = [away if FAILS <= number < BACK else ALL for number in range(1, ROUNDS + 1)]
    return naive.fedprox(naive.silos(), present, LR, STEPS, MU)


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("strategy", "reference"),
    [
        ("scaffold", scaffold),
        ("scaffold-I", partial(scaffold, option="I")),
        ("feddyn", feddyn),
        ("fedprox", fedprox),
        ("moon", moon),
    ],
)
@pytest.mark.parametrize(
    ("secure", "bound"), [({"protocol": "plain"}, 1e-9), ({"protocol": "secagg", "bits": 32}, 1e-5)]
)
def test_a_silo_is_away_for_two_rounds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    strategy: str,
    reference: Any,
    secure: dict[str, Any],
    bound: float,
) -> None:
    config = settings(tmp_path, strategy, f"kill silo {VICTIM} round {FAILS} at train", **secure)
    results = federate(monkeypatch, config, Softmax, len(SIZES), VICTIM, after=BACK - 1)
    assert len({result["model_sha256"] for result in results}) == 1
    lines = records(tmp_path)
    assert [line["round"] for line in lines if line["failed"] == [VICTIM]] == [FAILS]
    assert [line["round"] for line in lines if line["rejoined"] == [VICTIM]] == [BACK]
    model = load_file(tmp_path / "model.safetensors")["weight"].ravel()
    np.testing.assert_allclose(model, reference(), rtol=0, atol=bound)


def tree_of(path: Path, number: int, silo: int) -> Any:
    directory = CheckpointDirectory(path / "checkpoints", silo)
    manifest = next(one for one in directory.manifests()[0] if one.round == number)
    entry = manifest.files[silo]
    return read_tree(directory.folder(number) / entry.name, entry.sha256)


def together(config: Config, *, resume: bool = False) -> list[Any]:
    def rank(comm: Any) -> Any:
        return train(config, Softmax(), comm=comm, resume=resume)

    return run_in_threads(len(SIZES), rank, timeout_s=110)


@pytest.mark.parametrize("secure", mostly_long([{"protocol": "plain"}, {"protocol": "secagg"}], 1), ids=str)
def test_control_variates_are_resumed_bit_for_bit(tmp_path: Path, secure: dict[str, Any]) -> None:
    """The whole job is killed in round 5 and resumed from the last one that it committed."""
    faults = [f"kill silo {silo} round 5 at train" for silo in ALL]
    assert together(settings(tmp_path / "killed", "scaffold", *faults, rounds=8, **secure)) == [None] * 4
    resumed = together(settings(tmp_path / "killed", "scaffold", rounds=8, **secure), resume=True)
    never = together(settings(tmp_path / "never", "scaffold", rounds=8, **secure))
    assert {one["model_sha256"] for one in resumed} == {one["model_sha256"] for one in never}
    for silo in ALL:
        own, expected = (tree_of(tmp_path / run, 8, silo) for run in ("killed", "never"))
        control, other = (tree["silo"]["strategy"]["control"] for tree in (own, expected))
        assert np.any(control)
        assert control.tobytes() == other.tobytes()
        slices = [tree["server"]["slices"]["control"].tobytes() for tree in (own, expected)]
        assert slices[0] == slices[1]


@pytest.mark.long
def test_control_variates_have_no_bias_after_a_silo_sat_a_round_out(tmp_path: Path) -> None:
    """It was away when its rounds were opened, is back with the restart, and takes part again after them.

    The rounds that it sits out resynchronize without it, so the next one has to once more.
    """

    def config(*faults: str) -> Config:
        made = settings(tmp_path, "scaffold", *faults, rounds=7, protocol="secagg", bits=32)
        return made.model_copy(update={"failure": made.failure.model_copy(update={"policy": "shrink"})})

    with pytest.raises(StoppedError, match="2 of 4 silos are left"):
        together(config("kill silo 3 round 2 at train", "kill silo 1 round 4 at step"))
    together(config(), resume=True)
    assert [line["survivors"] for line in records(tmp_path)[3:]] == [[0, 1, 2], *([list(ALL)] * 3)]
    trees = [tree_of(tmp_path, 7, silo) for silo in ALL]
    shared = np.concatenate([tree["server"]["slices"]["control"] for tree in trees])
    own = np.mean([tree["silo"]["strategy"]["control"] for tree in trees], axis=0)
    assert np.abs(own).max() > 1e-2
    np.testing.assert_allclose(shared, own, rtol=0, atol=1e-5)


RUN = f"""
[run]
rounds = {ROUNDS}
display = "plain"
[task]
factory = "tests.strategies.test_federated:Softmax"
[train]
full_batch = true
steps = {STEPS}
lr = {LR}
dtype = "float64"
[strategy]
name = "scaffold"
[secure]
protocol = "plain"
"""


@pytest.mark.long
def test_a_real_silo_is_started_again(start: Start, tmp_path: Path) -> None:
    """It fails in round 5, and takes part in round 6, in which all resynchronize."""
    (tmp_path / "scaffold.toml").write_text(RUN)
    (tmp_path / "tests").symlink_to(ROOT / "tests")  # a task is looked for in the folder of the run, too
    fault = json.dumps([f"kill silo {VICTIM} round {FAILS} at train"])
    more = ("--set", "failure.policy=respawn", "--set", f"failure.inject={fault}")
    end = start(len(SIZES), "train", "scaffold.toml", "--run", "run", *more, ulfm=True).wait(240)
    assert end.code == 0, end.out + end.err
    lines = records(tmp_path / "run")
    assert [line["round"] for line in lines] == list(range(1, ROUNDS + 1))
    assert [(line["round"], line["failed"]) for line in lines if line["failed"]] == [(FAILS, [VICTIM])]
    assert [(line["round"], line["rejoined"]) for line in lines if line["rejoined"]] == [
        (FAILS + 1, [VICTIM])
    ]
    model = load_file(tmp_path / "run" / "model.safetensors")["weight"].ravel()
    np.testing.assert_allclose(model, scaffold(FAILS + 1), rtol=0, atol=1e-9)


class Counter(Part):
    """A part that a test adds: it counts how often it was committed, and in how many processes."""

    name = "counter"
    made: list[Counter] = []  # noqa: RUF012 - a test's own list

    def __init__(self, silo: int) -> None:
        self.silo, self.commits, self.told, self.own = silo, 0, -1, -1
        Counter.made.append(self)

    def state(self) -> State:
        self.commits += 1
        return {"commits": self.commits, "silo": self.silo}

    def restore(self, state: State | None, committed_by: tuple[int, ...], *, member: bool) -> None:
        assert state is not None
        assert (state["silo"], committed_by, member) == (self.silo, ALL, True)
        self.commits = state["commits"]

    def rejoin_state(self) -> Json:
        return {"commits": self.commits}

    def take_over(self, told: Json, own: State | None) -> None:
        assert own is not None
        assert own["silo"] == self.silo
        self.told, self.own, self.commits = told["commits"], own["commits"], told["commits"]


@pytest.mark.long
def test_a_new_part_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is committed, told to a silo that rejoins, and resumed."""
    before = whole.parts_of
    monkeypatch.setattr(Counter, "made", [])
    monkeypatch.setattr(whole, "parts_of", lambda c: (*before(c), Counter(c.group.silo_id)))
    config = settings(tmp_path, "fedavg", "kill silo 2 round 5 at train", rounds=8, protocol="plain")
    federate(monkeypatch, config, Softmax, len(SIZES), VICTIM, after=5)
    back = next(one for one in Counter.made if one.told >= 0)
    assert (back.silo, back.own, back.told) == (VICTIM, OWN, 5)
    assert [tree_of(tmp_path, 8, silo)["counter"]["commits"] for silo in ALL] == [9] * 4
    monkeypatch.setattr(Counter, "made", [])
    together(settings(tmp_path, "fedavg", rounds=10, protocol="plain"), resume=True)
    assert [one.commits for one in Counter.made] == [11] * 4
