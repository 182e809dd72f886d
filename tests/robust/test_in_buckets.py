"""Robust rules over means of secret buckets: in runs of threads, through deaths and restarts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch.utils.data import TensorDataset

from silofl.aggregation import bucketed_secagg
from silofl.checkpoint.opening_log import Opening, OpeningLog
from silofl.comm.threads import run_in_threads
from silofl.crypto.identity import Identity
from silofl.crypto.secagg.joint_seed import Commitment
from silofl.crypto.secagg.messages import sign
from silofl.errors import CheckpointError, ConfigError, ProtocolError, SiloflError
from silofl.federation.dry_run import dry_run
from silofl.federation.early_checks import Start, robust_rule
from silofl.federation.loop import train
from silofl.federation.silo import Silo
from silofl.tasks.base import SiloData
from tests.robust import naive as rules
from tests.robust.test_in_runs import configured
from tests.signed_openings import told_by
from tests.strategies import naive
from tests.strategies.test_federated import LR, STEPS, Softmax, deaths

__all__ = ["deaths"]
SILOS, ROUNDS = 9, 3
MEDIAN = {"name": "median", "f": 1, "bucket": 3}
BOUND = {"name": "norm_bounding", "bound": 0.05}
SECURE = {"protocol": "secagg", "bits": 32}
pytestmark = pytest.mark.usefixtures("deaths")


def rows(silo: int) -> Any:
    x, y = naive.silos()[silo % 4]
    return x * (1 + silo / 10), y


class ManySilos(Softmax):
    """`Softmax` of as many silos as there are."""

    def data(self, silo: int, silos: int) -> SiloData:
        x, y = (torch.from_numpy(values) for values in rows(silo))
        return SiloData(TensorDataset(x, y))


def settings(path: Path, robust: Any = MEDIAN, *inject: str, rounds: int = ROUNDS, **sections: Any) -> Any:
    table = {"name": "f", "dir": str(path), "display": "none", "rounds": rounds}
    return configured(path, robust, *inject, run=table, **{"secure": SECURE} | sections)


def federate(config: Any, silos: int = SILOS, *, resume: bool = False) -> list[Any]:
    def rank(comm: Any) -> Any:
        torch.set_num_threads(1)
        try:
            return train(config, ManySilos(), comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(silos, rank, timeout_s=60)


def model(path: Path) -> Any:
    return load_file(path / "model.safetensors")["weight"].ravel()


def openings(path: Path, silo: int = 0, silos: int = SILOS) -> list[Opening]:
    log = path / f"silo-{silo:04d}" / "openings.jsonl"
    return OpeningLog(log, json.loads(log.read_text().splitlines()[0])["run"], silos).openings()


def reference(path: Path, silos: int = SILOS) -> Any:
    """By the buckets that the run's record tells of."""
    x = np.zeros(naive.SIZE)
    for one in openings(path, silos=silos):
        updates = {silo: naive.descend(rows(silo), x, LR, STEPS) - x for silo in one.silos}
        means = [np.mean([updates[silo] for silo in bucket], axis=0) for bucket in one.buckets]
        x = x + rules.median(np.array(means), 1)
    return x


@pytest.mark.parametrize(("redraw", "draws"), [(None, 1), (1, 3), (2, 2)], ids=str)
def test_steps_are_by_the_median_of_secret_buckets(tmp_path: Path, redraw: Any, draws: int) -> None:
    """Of the same ones in all rounds, unless they are to be drawn anew."""
    federate(settings(tmp_path, MEDIAN if redraw is None else MEDIAN | {"redraw": redraw}))
    np.testing.assert_allclose(model(tmp_path), reference(tmp_path), rtol=0, atol=1e-6)
    drawn = [one.buckets for one in openings(tmp_path)]
    assert [sorted(map(len, one)) for one in drawn] == [[3, 3, 3]] * ROUNDS
    assert len(set(drawn)) <= draws
    assert len((tmp_path / "silo-0000" / "draws.jsonl").read_text().splitlines()) == 1 + draws


def test_a_silo_that_dies_takes_its_bucket_out_of_the_round_and_the_run_goes_on(tmp_path: Path) -> None:
    """Of ten silos, in buckets of 3, 3 and 4: a rule for no attacker goes on with two of them."""
    robust = MEDIAN | {"f": 0}
    results = federate(settings(tmp_path, robust, "kill silo 2 round 2 at collect"), 10)
    assert [silo for silo, one in enumerate(results) if one is None] == [2]
    assert all(isinstance(one, dict) for one in results if one is not None)
    np.testing.assert_allclose(model(tmp_path), reference(tmp_path, 10), rtol=0, atol=1e-6)
    found = openings(tmp_path, silos=10)
    assert len(found[1].silos) in (7, 9)
    assert found[2].silos == tuple(silo for silo in range(10) if silo != 2)


def test_a_silo_of_a_bucket_that_is_left_out_keeps_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that sits out, for its update is in no sum."""
    taken, accept = list[int](), Silo.accept

    def spied(silo: Silo, fitted: Any) -> None:
        taken.append(silo._number)
        accept(silo, fitted)

    monkeypatch.setattr(Silo, "accept", spied)
    federate(settings(tmp_path, MEDIAN | {"f": 0}, "kill silo 2 round 1 at collect", rounds=1))
    (one,) = openings(tmp_path, 0)
    assert len(one.silos) == 6
    assert sorted(taken) == [*one.silos]


def test_a_round_that_is_taken_again_has_the_buckets_of_before(tmp_path: Path) -> None:
    """Silo 2 died before its words were in, another behind the opening, which ended the job."""
    robust = MEDIAN | {"f": 0}
    losses = ("kill silo 2 round 2 at collect", "kill silo 3 round 2 at step", "kill silo 4 round 2 at step")
    config = settings(tmp_path, robust, *losses, failure={"inject": list(losses), "min_silos": 8})
    assert not any(isinstance(one, dict) for one in federate(config))
    (before,) = {one.buckets for one in openings(tmp_path) if one.round == 2}
    again = federate(settings(tmp_path, robust, rounds=2), resume=True)
    assert all(isinstance(one, dict) for one in again)
    assert {one.buckets for one in openings(tmp_path) if one.round == 2} == {before}
    assert 2 not in {silo for bucket in before for silo in bucket}


def test_copies_of_a_run_that_go_on_are_the_same_bit_for_bit(tmp_path: Path) -> None:
    federate(settings(tmp_path / "one", rounds=1))
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    ends = [federate(settings(tmp_path / name), resume=True)[0]["model_sha256"] for name in ("one", "two")]
    assert ends[0] == ends[1]
    assert openings(tmp_path / "one") == openings(tmp_path / "two")


def test_records_of_other_buckets_are_refused(tmp_path: Path) -> None:
    """As of a copy of the run that was gone on with: round 2 is in the logs and not committed."""
    federate(settings(tmp_path, rounds=1))
    (first,) = openings(tmp_path)
    for silo, buckets in ((0, first.buckets), (1, ((0, 1, 2), (3, 4, 5), (6, 7, 8)))):
        told_by(tmp_path, silo, Opening(2, first.silos, first.present, first.way, buckets))
    results = federate(settings(tmp_path), resume=True)
    assert {type(one) for one in results} == {CheckpointError}
    assert "silos 0 and 1 have round 2 as opened in other buckets" in str(results[0])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda true: b"", "silo 3 committed to a value .* and does not open it"),
        (lambda true: true[:-1] + bytes([true[-1] ^ 1]), "silo 3's seedvalue is refused"),
    ],
    ids=["never opens", "spoilt"],
)
def test_a_silo_that_does_not_open_its_value_ends_the_run_by_name_on_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: Any, said: str
) -> None:
    honest = bucketed_secagg.disclose

    def lies(stage: Any, *more: Any) -> bytes:
        true = honest(stage, *more)
        return given(true) if stage.me == 3 else true  # type: ignore[no-any-return]

    monkeypatch.setattr(bucketed_secagg, "disclose", lies)
    results = federate(settings(tmp_path))
    assert {type(one) for one in results} == {ProtocolError}
    assert len({str(one) for one in results}) == 1
    assert re.search(said, str(results[0]))
    assert not (tmp_path / "silo-0000" / "openings.jsonl").exists() or not openings(tmp_path)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_silo_that_knows_the_others_values_cannot_choose_another_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Buckets are kept, so that from round 2 on it could try values until it likes its bucket."""
    honest, calls = bucketed_secagg.commit, list[int]()

    def other(stage: Any, matter: bytes) -> bytes:
        calls.append(stage.me)
        tries, true = stage.me == 3 and calls.count(3) > 1, honest(stage, matter)
        return another(true, stage.party.identity) if tries else true

    monkeypatch.setattr(bucketed_secagg, "commit", other)
    if restarted:
        federate(settings(tmp_path, rounds=1))
    results = federate(settings(tmp_path), resume=restarted)
    assert {type(one) for one in results} == {ProtocolError}
    assert "silo 3 commits to another value of the seed that draws buckets than before" in str(results[0])
    assert [one.round for one in openings(tmp_path)] == [1]


@pytest.mark.parametrize("later", [False, True])
def test_who_tells_silos_different_commitments_is_named_by_all_and_later_draws_are_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """Else honest silos would blame each other, and no draw of these silos would ever end."""
    honest = bucketed_secagg.commitments_of
    if later:
        federate(settings(tmp_path, rounds=1), 10)

    def told(stage: Any, matter: bytes, silos: Any, commitments: dict[int, bytes]) -> Any:
        if stage.me in (0, 1):
            key = Identity.load(tmp_path / "silo-0003" / "identity.pem")
            commitments[3] = another(commitments[3], key)
        return honest(stage, matter, silos, commitments)

    monkeypatch.setattr(bucketed_secagg, "commitments_of", told)
    results = federate(settings(tmp_path), 10, resume=later)
    assert {(type(one), one.sender) for one in results} == {(ProtocolError, 3)}
    assert "its two signatures are kept, and after --resume buckets are drawn without it" in str(results[0])
    monkeypatch.setattr(bucketed_secagg, "commitments_of", honest)
    assert all(isinstance(one, dict) for one in federate(settings(tmp_path), 10, resume=True))
    assert {one.silos for one in openings(tmp_path, silos=10)[later:]} == {(0, 1, 2, *range(4, 10))}


def another(true: bytes, key: Identity) -> bytes:
    """A commitment to another value of the same draw."""
    message = Commitment.decode(true[:-64], 3)
    return sign(replace(message, commitment=b"c" * 32), key)


def test_a_silo_with_buckets_of_its_own_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have those that it likes: its masks cancel with nobody's, and its vote is refused by name."""
    honest = bucketed_secagg.joint_seed

    def chooses(stage: Any, *more: Any) -> bytes:
        return bytes(32) if stage.me == 3 else honest(stage, *more)

    monkeypatch.setattr(bucketed_secagg, "joint_seed", chooses)
    results = federate(settings(tmp_path, secure=SECURE | {"range": 4.0}))
    assert all(isinstance(one, SiloflError) for one in results)
    assert any("silo 3 and this silo were given different" in str(one) for one in results)


def test_a_bound_is_kept_by_each_silo_itself_where_there_are_no_buckets(tmp_path: Path) -> None:
    bound, x = 0.05, np.zeros(naive.SIZE)
    federate(settings(tmp_path, {"name": "norm_bounding", "bound": bound}), 4)
    for _ in range(ROUNDS):
        updates = [naive.descend(rows(silo), x, LR, STEPS) - x for silo in range(4)]
        x = x + np.mean([u * min(1, bound / np.linalg.norm(u)) for u in updates], axis=0)
    np.testing.assert_allclose(model(tmp_path), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("robust", "protocol", "silos", "said"),
    [
        ({"name": "median"}, "secagg", 9, r"set robust\.bucket = 3 or more, .* or set secure\.protocol"),
        ({"name": "norm_bounding"}, "secagg", 9, r"set robust\.bound, .*; or set robust\.bucket = 3"),
        (BOUND | {"mix": True}, "secagg", 9, r"^robust\.mix = true compares .* robust\.bucket = 3"),
        (BOUND | {"clip": True}, "secagg", 9, r"^robust\.clip = true compares .* each silo cuts its own"),
        (BOUND | {"f": 2}, "additive", 9, r"^robust\.f = 2 compares updates.*: remove it, or set"),
        ({"name": "root_trust"}, "secagg", 9, r"is not seen: set secure\.protocol = \"plain\""),
        ({"name": "median", "bucket": 2, "f": 0}, "secagg", 9, r"^robust\.bucket = 2 under .* set it to 3"),
        ({"name": "median", "bucket": 3, "f": 0}, "additive", 9, r'set secure\.protocol = "secagg"$'),
        (MEDIAN, "secagg", 8, r"take 3 buckets under a secure sum, and 8 silos are in 2, .* start 9 silos"),
        (MEDIAN | {"f": 2}, "secagg", 14, r"take 5 buckets .* start 15 silos"),
        ({"name": "root_trust", "bucket": 3}, "secagg", 9, r"mixes the update that"),
    ],
    ids=str,
)  # fmt: skip
def test_what_buckets_are_not_had_of_is_one_sentence(
    tmp_path: Path, robust: Any, protocol: str, silos: int, said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        robust_rule(Start(settings(tmp_path, robust, secure={"protocol": protocol}), silos))


def test_a_dry_run_says_what_the_means_show_and_to_whom(tmp_path: Path) -> None:
    found = dry_run(settings(tmp_path), SILOS)
    (said,) = [note for note in found.notes if note.startswith("buckets:")]
    assert "the means of 3 buckets of 3 silos or more, drawn when silos come or go, are opened" in said
    assert "1 silo that colludes sees no other's update" in said
    assert found.protocol == "secagg, median with f = 1, of updates in buckets of 3"


def test_one_liar_does_not_have_the_others_rounded_to_zero(tmp_path: Path) -> None:
    """At 16 bits its values of 10^6 would leave nothing of theirs, did it decide the range."""
    attack = {"name": "gaussian", "silos": [8], "deviation": 1e6}
    federate(settings(tmp_path, attack=attack, secure={"protocol": "secagg", "bits": 16}, rounds=1))
    updates = [naive.descend(rows(silo), np.zeros(naive.SIZE), LR, STEPS) for silo in range(8)]
    (one,) = openings(tmp_path)
    honest = [np.mean([updates[k] for k in bucket], axis=0) for bucket in one.buckets if 8 not in bucket]
    low, high = np.min(honest, axis=0), np.max(honest, axis=0)
    found = model(tmp_path)
    assert ((low - 1e-3 <= found) & (found <= high + 1e-3)).all()
    assert np.abs(found).max() > 1e-2
