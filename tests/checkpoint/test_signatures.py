"""Manifests that all members signed, and a resume that believes no others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import Manifest, parse
from silofl.checkpoint.run_id import found_run_id, new_run_id
from silofl.checkpoint.store import CheckpointStore
from silofl.checkpoint.trust import Trust
from silofl.comm import run_in_threads
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.crypto.signer import Signer
from silofl.errors import CheckpointError, ConfigError, ProtocolError, SiloflError
from tests.checkpoint.run_of_silos import RUN, Silos, same, state_of

IDENTITIES = [Identity.from_private_bytes(bytes([silo + 1]) * 32) for silo in range(3)]


def roster(*names: str) -> Roster:
    return Roster(tuple(Institution(name, one.public) for name, one in zip(names, IDENTITIES, strict=True)))


ROSTER = roster("north", "east", "west")


def trust(silo: int, known: Roster = ROSTER) -> Trust:
    return Trust(RUN, Signer(IDENTITIES[silo], known), fewest=2)


def signing(path: Path, *, shared: bool = False) -> Silos:
    return Silos(path, 3, shared=shared, trust=trust)


def manifest_of(silos: Silos, silo: int, number: int) -> Manifest:
    return parse((silos.folder(silo) / f"round-{number:06d}" / "manifest.json").read_bytes())


@pytest.mark.parametrize("shared", [True, False])
def test_a_signed_round_is_found_again(tmp_path: Path, shared: bool) -> None:
    silos = signing(tmp_path, shared=shared)
    silos.commit(silos.everybody, 1, 2)
    silos.commit([0, 2], 3)
    for silo in (0, 2):
        assert [[*manifest_of(silos, silo, k).signatures] for k in (2, 3)] == [[0, 1, 2], [0, 2]]
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, found.members, found.notices) == (3, (0, 2), [])
        assert same(found.state, state_of(silo, 2 if silo == 1 else 3))


def forged_alone(manifest: Manifest) -> Manifest:
    """By silo 2, which says that it was alone."""
    alone = replace(manifest, round=9, files={2: manifest.files[2]}, signatures={})
    return replace(alone, signatures={2: trust(2).sign(alone).hex()})


def forged_by_one(manifest: Manifest) -> Manifest:
    """By silo 2, in everybody's name."""
    later = replace(manifest, round=9)
    return replace(later, signatures={silo: trust(2).sign(later).hex() for silo in range(3)})


FORGED: dict[str, tuple[Callable[[Manifest], Manifest], str]] = {
    "unsigned": (lambda m: replace(m, signatures={}), "of round 2 that silo 2 has is not signed by silo 0"),
    "one missing": (
        lambda m: replace(m, signatures={k: m.signatures[k] for k in (0, 2)}),
        "of round 2 that silo 2 has is not signed by silo 1",
    ),
    "exchanged": (
        lambda m: replace(m, signatures=m.signatures | {1: m.signatures[0]}),
        "of round 2 that silo 2 has is not signed by silo 1",
    ),
    "of another round": (lambda m: replace(m, round=9), "of round 9 that silo 2 has is not signed by silo 0"),
    "of another file": (
        lambda m: replace(m, files=m.files | {0: replace(m.files[0], sha256="0" * 64)}),
        "of round 2 that silo 2 has is not signed by silo 0",
    ),
    "by one for all": (forged_by_one, "of round 9 that silo 2 has is not signed by silo 0"),
    "alone": (forged_alone, "of round 9 that silo 2 has is of 1 silos, and a round is over 2 at least"),
    "of another run": (lambda m: replace(m, run="6" * 32), "of round 2 that silo 2 has is of another run"),
    "for another roster": (
        lambda m: replace(m, signatures={k: trust(k, roster("a", "b", "c")).sign(m).hex() for k in range(3)}),
        "of round 2 that silo 2 has is not signed by silo 0",
    ),
}


@pytest.mark.parametrize(("forge", "reason"), FORGED.values(), ids=FORGED)
def test_a_resume_refuses_what_is_not_signed_by_its_members(
    tmp_path: Path, forge: Callable[[Manifest], Manifest], reason: str
) -> None:
    silos = signing(tmp_path)
    silos.commit(silos.everybody, 1, 2)
    forged = forge(manifest_of(silos, 2, 2))
    folder = CheckpointDirectory(silos.folder(2), 2).make_folder(forged.round)
    (folder / "manifest.json").write_bytes(forged.encode())
    with pytest.raises(
        CheckpointError, match=f"cannot resume .*: the manifest {reason}.*; move that round"
    ) as said:
        silos.latest()
    assert said.value.exit_code == 2
    assert "\n" not in str(said.value)


def test_a_silo_that_comes_back_brings_no_round_of_its_own_making(tmp_path: Path) -> None:
    """The others go on: with what they signed themselves."""
    silos = signing(tmp_path)
    silos.commit(silos.everybody, 1, 2)
    silos.commit([0, 1], 3)
    forged = forged_alone(manifest_of(silos, 2, 2))
    CheckpointDirectory(silos.folder(2), 2).publish(forged)
    silos.start_again([2])
    own = silos.together(silos.everybody, lambda store, silo: store.own_state({2}))[2]
    assert own is not None
    assert (own[0], same(own[1], state_of(2, 2))) == (2, True)
    assert not (silos.folder(0) / "round-000009").exists()


def refused_at_a_commit(silos: Silos) -> list[SiloflError]:
    def work(store: CheckpointStore, silo: int) -> SiloflError | None:
        store.begin(1, state_of(silo, 1))
        try:
            store.commit_pending()
        except SiloflError as error:
            return error
        return None

    errors = silos.together(silos.everybody, work).values()
    assert not any(silos.committed(silo) for silo in silos.everybody)
    return [error for error in errors if error is not None]


@pytest.mark.parametrize("signature", [b"", bytes(64), b"x"], ids=["none", "zeros", "short"])
def test_a_member_that_does_not_sign_is_named_by_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signature: bytes
) -> None:
    sign = Trust.sign
    monkeypatch.setattr(
        Trust,
        "sign",
        lambda self, m: signature if self.signer.identity.public == IDENTITIES[1].public else sign(self, m),
    )
    errors = refused_at_a_commit(signing(tmp_path))
    assert [type(error) for error in errors] == [ProtocolError] * 3
    assert {getattr(error, "sender", None) for error in errors} == {1}
    assert "silo 1's message about checkpoints is refused: it does not sign" in str(errors[0])


def test_identities_are_everybodys_or_nobodys(tmp_path: Path) -> None:
    silos = signing(tmp_path)
    silos.trust = lambda silo: Trust(RUN) if silo == 2 else trust(silo)
    errors = refused_at_a_commit(silos)
    assert [type(error) for error in errors] == [ConfigError] * 3
    assert str(errors[0]) == "silo 2 has no secure.identity and others have: set all or none"


def test_a_run_has_an_id_of_everybodys_making() -> None:
    ids = [run_in_threads(3, new_run_id) for _ in range(2)]
    assert [len(set(one)) for one in ids] == [1, 1]
    assert ids[0] != ids[1]
    assert len(bytes.fromhex(ids[0][0])) == 16


@pytest.mark.parametrize(("known", "found"), [([None, "a" * 32, "b" * 32], "a" * 32), ([None] * 3, None)])
def test_without_a_round_the_first_silo_that_knows_the_run_says_it(
    tmp_path: Path, known: list[str | None], found: str | None
) -> None:
    def find(comm: Any) -> str | None:
        return found_run_id(comm, tmp_path, Trust(None), known[comm.rank])

    assert run_in_threads(3, find) == [found] * 3


def test_rounds_of_two_runs_are_one_refusal(tmp_path: Path) -> None:
    silos = Silos(tmp_path, 3, shared=False)
    silos.commit(silos.everybody, 1)

    def find(comm: Any) -> str | None:
        return found_run_id(comm, silos.folder(comm.rank), Trust(None), None)

    assert run_in_threads(3, find) == [RUN] * 3
    other = replace(manifest_of(silos, 1, 1), run="6" * 32, round=7)
    CheckpointDirectory(silos.folder(1), 1).publish(other)
    with pytest.raises(CheckpointError, match="holds rounds of 2 runs, at one silo or another: move"):
        run_in_threads(3, find)
