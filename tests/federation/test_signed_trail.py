"""The audit trail in runs of threads: signed by all that are there, over resumes, deaths and returns."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from silofl import config as configuration
from silofl.checkpoint.audit_trail import PURPOSE, SignedEntry, TrailFile, read, trail_path
from silofl.checkpoint.run_keys import identity_path
from silofl.checkpoint.trail_verification import Verified, verified
from silofl.crypto.identity import Identity
from silofl.crypto.signer import Signer
from silofl.errors import CheckpointError, ConfigError, OtherTrailError, ProtocolError
from silofl.federation.signed_trail import SignedTrail
from tests.federation import rejoining
from tests.federation.threads import Normalized, federate, prepare, settings
from tests.robust.test_in_runs import configured as with_rule

SILOS, VICTIM, BAD = 5, 2, 4
ATTACK = {"name": "sign_flip", "scale": 20.0, "silos": [BAD]}


def configured(path: Path, rounds: int = 4, **sections: Any) -> Any:
    tables = {
        "run": {"rounds": rounds, "evaluate_every": 99},
        "strategy": {"momentum": 0.0},
        "audit": {"trail": True},
        "secure": {"protocol": "plain"},
    }
    return settings(path, **tables | sections)


def run(config: Any, *, resume: bool = False) -> list[Any]:
    found = federate(config, SILOS, resume=resume)
    for one in found:
        if isinstance(one, Exception):
            raise one
    return found


def trail(path: Path, silo: int = 0) -> bytes:
    return trail_path(path, silo).read_bytes()


def entries(path: Path, silo: int = 0) -> list[SignedEntry]:
    return read(trail_path(path, silo))[2]


def test_every_silo_has_the_same_trail_signed_by_all(tmp_path: Path) -> None:
    """Under a secure sum, too, in which no update is scored."""
    run(configured(tmp_path, rounds=2, secure={"protocol": "secagg"}))
    found: Verified = verified([tmp_path])
    assert (len(found.trails), found.model_round) == (SILOS, 2)
    assert len({trail(tmp_path, silo) for silo in range(SILOS)}) == 1
    for one in found.longest.signed:
        assert one.entry.present == one.entry.members == tuple(one.signatures) == tuple(range(SILOS))
        assert one.entry.decisions == {}
    assert "by keys that the copies themselves name" in found.text()
    assert "  signers   rounds 1 to 2: silos 0, 1, 2, 3, 4\n" in found.text()


def test_a_resume_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Entries of rounds that were not committed are made anew; a file that is lost is copied."""
    sections = {"detection": {"mode": "exclude", "strikes": 2}, "attack": ATTACK}
    whole, lost = tmp_path / "whole", tmp_path / "lost"
    run(configured(whole, rounds=2, **sections))
    shutil.copytree(whole, lost)
    run(configured(whole, **sections), resume=True)
    later = trail(whole).splitlines(keepends=True)[4]
    for silo, line in ((0, later.replace(b'"round": 3', b'"round": 4')), (1, later)):  # not committed
        with trail_path(lost, silo).open("ab") as file:
            file.write(line)
    trail_path(lost, 3).unlink()
    spoiled = trail_path(lost, 2)
    spoiled.write_bytes(spoiled.read_bytes().replace(b'"norm": ', b'"norm": NaN, "was": ', 1))
    run(configured(lost, **sections), resume=True)
    assert len({trail(path, silo) for path in (whole, lost) for silo in range(SILOS)}) == 1
    text = (lost / "silo-0000" / "log.txt").read_text()
    assert "silos 2 and 3 had no whole audit trail of rounds 1 to 2, and copied another silo's" in text
    told = entries(whole)
    assert [[*one.entry.decisions.get("excluded", {})] for one in told] == [[], [str(BAD)], [], []]
    assert sorted(told[0].entry.decisions["scores"]) == [str(silo) for silo in range(SILOS)]
    assert verified([whole, lost]).model_round == 4


def test_a_trail_that_no_silo_has_any_more_stops_a_resume(tmp_path: Path) -> None:
    run(configured(tmp_path, rounds=2))
    for silo in range(SILOS):
        file = trail_path(tmp_path, silo)
        file.write_bytes(file.read_bytes().replace(b'"round": 1', b'"round": 7', 1))
    with pytest.raises(CheckpointError, match=r"^no silo has the audit trail of rounds 1 to 2 as it"):
        run(configured(tmp_path), resume=True)


@pytest.mark.parametrize("at", ["step", "evaluate"])
def test_an_entry_is_signed_by_the_silos_that_are_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    prepare(monkeypatch)
    failure = {"inject": [f"kill silo {VICTIM} round 2 at {at}"]}
    run(configured(tmp_path, rounds=3, run={"rounds": 3, "evaluate_every": 1}, failure=failure))
    first, second, third = (one.entry for one in entries(tmp_path))
    assert VICTIM in first.present
    assert VICTIM not in second.present
    assert VICTIM in second.members  # its update is in the sum
    assert second.decisions == {"failed": [VICTIM]}
    assert VICTIM not in third.members
    assert len(entries(tmp_path, VICTIM)) == 1
    assert len(verified([tmp_path]).trails) == SILOS


def test_a_silo_that_decided_otherwise_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def other(trail: SignedTrail, metrics: Any, topology: Any, standings: Any) -> None:
        if trail._group.silo_id == 3:
            topology.values[0] += 1
        record(trail, metrics, topology, standings)

    record = SignedTrail.record
    monkeypatch.setattr(SignedTrail, "record", other)
    with pytest.raises(ProtocolError, match=r"^silo 3 has another entry of round 1 .* than silo 0"):
        run(configured(tmp_path))


def test_a_signature_that_does_not_fit_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = SignedTrail.of.__func__  # type: ignore[attr-defined]

    def made(*given: Any) -> Any:
        one = of(SignedTrail, *given)
        if one._group.silo_id == 1:
            object.__setattr__(one._signer, "sign", lambda purpose, message: b"\0" * 64)
        return one

    monkeypatch.setattr(SignedTrail, "of", made)
    with pytest.raises(ProtocolError, match=r"^silo 1 does not sign"):
        run(configured(tmp_path, checkpoint={"every": 0}))


def test_a_silo_that_returns_goes_on_with_the_others_trail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And knows who is excluded: else its step would be another, and its entry, too."""
    sections = {"detection": {"mode": "exclude", "strikes": 2}, "attack": ATTACK}
    failure = {"policy": "respawn", "inject": [f"kill silo {VICTIM} round 3 at train"]}
    prepare(monkeypatch)
    config = configured(tmp_path, rounds=6, failure=failure, **sections)
    rejoining.federate(monkeypatch, config, Normalized, SILOS, VICTIM, after=4)
    assert [VICTIM in one.entry.members for one in entries(tmp_path)] == [True] * 2 + [False] * 2 + [True] * 2
    assert trail(tmp_path, VICTIM) == trail(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["left_out"] for line in lines] == [[BAD]] * 6
    assert len(verified([tmp_path]).trails) == SILOS


def test_a_silo_refuses_another_trail_than_it_has_signed(tmp_path: Path) -> None:
    """But for the last entry, which the others may have signed anew without it, and say so."""
    run(configured(tmp_path, rounds=3))
    run_id, head, told = read(trail_path(tmp_path, 0))
    keys = [Identity.load(identity_path(tmp_path, silo)) for silo in range(SILOS)]

    def back(own: list[SignedEntry]) -> SignedTrail:
        file = TrailFile(tmp_path / "own" / "silo-0000" / "trail.jsonl", run_id, head, own)
        file.rewrite()
        config: Any = with_rule(tmp_path, {})
        return SignedTrail(SimpleNamespace(silo_id=0), config, None, file)  # type: ignore[arg-type]

    def by(silos: tuple[int, ...], **changed: Any) -> SignedEntry:
        """The last entry, signed otherwise."""
        gone = tuple(silo for silo in range(SILOS) if silo not in silos)
        entry = replace(told[2].entry, present=silos, departed=gone, **changed)
        signers = {silo: Signer(keys[silo], head.roster) for silo in silos}
        return SignedEntry(
            entry, {silo: one.sign(PURPOSE, entry.digest).hex() for silo, one in signers.items()}
        )

    def given(*signed: SignedEntry) -> Any:
        return {"signed": [one.to_json() for one in signed], "place": len(signed)}

    for own in ([], told[:1], told[:2], told, [*told[:2], told[0]]):
        one = back(own)
        one.take_over(given(*told), None)
        assert read(one._file.path)[2] == told
    anew = by((1, 2, 3, 4))
    back(told).take_over(given(*told[:2], anew), None)
    with pytest.raises(OtherTrailError, match="not the one that this silo has signed"):
        back(told).take_over(given(*told[:2], by((0, 1, 2, 3), model="00" * 32)), None)
    with pytest.raises(OtherTrailError, match="not the one that this silo has signed"):
        back(told).take_over(given(*told[:2]), None)
    with pytest.raises(OtherTrailError, match=r"round 3 is one of 2 of 5 silos, and no fewer than 3"):
        back(told).take_over(given(*told[:2], by((3, 4))), None)
    with pytest.raises(OtherTrailError, match="the chain is broken before the entry of round 3"):
        back([]).take_over(given(told[0], told[2]), None)
    for spoiled in ({}, {"signed": 3}, {"signed": [{"entry": {}}]}):
        with pytest.raises(OtherTrailError, match="is refused"):
            back([]).take_over(spoiled, None)


def test_silos_without_a_model_in_common_have_no_trail(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r'^audit\.trail = true .* topology\.name = "gossip"'):
        configuration.parse({"audit": {"trail": True}, "topology": {"name": "gossip"}})


def test_a_new_run_does_not_write_over_an_old_trail(tmp_path: Path) -> None:
    run(configured(tmp_path, rounds=1, checkpoint={"every": 0}))
    for path in tmp_path.glob("*.*"):
        path.unlink()
    with pytest.raises(ConfigError, match="already holds a run"):
        run(configured(tmp_path, rounds=1, checkpoint={"every": 0}))
