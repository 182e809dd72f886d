"""What survivors ask of a silo that returns, one of three, and what each refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import silofl
from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.crypto.identity import Identity
from silofl.crypto.rejoin_proof import prove
from silofl.crypto.roster import Institution, Roster
from silofl.crypto.signer import Signer
from silofl.federation.failure.admission import WITHDRAWN, Admission

BACK = 2


def settings(data: str = "inst{silo}.csv") -> Config:
    return configuration.parse({"data": {"path": data}})


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """Three keys, their roster, and the roster of the same institutions in another order."""
    known = []
    for silo in range(3):
        identity = Identity.generate()
        identity.save(tmp_path / f"k{silo}.pem")
        known.append(Institution(f"institution {silo}", identity.public))
    (tmp_path / "roster.toml").write_text(Roster(tuple(known)).dumps())
    renamed = (Institution("another", known[0].key), *known[1:])
    (tmp_path / "others.toml").write_text(Roster(renamed).dumps())
    return tmp_path


def of_first_start(folder: Path) -> Any:
    """Silo k's keys where the run has no roster."""
    return lambda silo: Signer(
        Identity.load(folder / f"k{silo}.pem"), Roster.load(folder / "roster.toml"), of_first_start=True
    )


def of_roster(folder: Path, identity: str = "k{silo}.pem", roster: str = "roster.toml") -> Any:
    return lambda silo: Signer(
        Identity.load(folder / identity.format(silo=silo)), Roster.load(folder / roster)
    )


def met(config: Config, signer: Any) -> list[Admission]:
    def rank(comm: Communicator) -> Admission:
        return Admission.of(comm, config, comm.rank, "model", f"columns of {comm.rank}", signer(comm.rank))

    return run_in_threads(3, rank, timeout_s=20)


def asked(admissions: list[Admission]) -> bytes:
    """What both survivors ask for, the same."""
    challenges = run_in_threads(2, lambda comm: admissions[comm.rank].challenge(comm, (BACK,)), timeout_s=20)
    assert challenges[0] == challenges[1]
    first: bytes = challenges[0]
    return first


def refusals(
    admissions: list[Admission],
    back: Config,
    signer: Any,
    *,
    silo: int = BACK,
    model: str = "model",
    columns: str = f"columns of {BACK}",
) -> set[str]:
    """What the survivors say of a process that returns with this configuration and these keys."""
    challenge = asked(admissions)
    claim = Admission(back, silo, model, columns, signer(silo)).claim(challenge)
    return {one.refusal(BACK, challenge, claim) for one in admissions[:BACK]}


UNPROVED = (
    "it has not proved its identity: start it with the secure.identity whose key the roster has for silo 2"
)
PUT_BACK = "put the keys of the run's first start back into silo-0002 of its run directory"


@pytest.mark.parametrize("signer_of", [of_first_start, of_roster])
def test_a_silo_that_is_itself_is_let_in(keys: Path, signer_of: Any) -> None:
    config, signer = settings(), signer_of(keys)
    admissions = met(config, signer)
    assert refusals(admissions, config, signer) == {""}
    told = Admission(
        config, 1, "model", "columns of 1", signer(1)
    )  # a silo that has rejoined judges as the others do
    told.take_over(json.loads(json.dumps(admissions[0].told())))
    assert refusals([admissions[0], told], config, signer) == {""}


@pytest.mark.parametrize(
    ("identity", "roster", "why", "without_roster"),
    [
        ("k1.pem", "roster.toml", UNPROVED, f"it has not proved its identity: {PUT_BACK}"),
        (
            "k2.pem",
            "others.toml",
            "its secure.roster has other institutions: give every silo the same file",
            f"it has other public keys than those of the run's first start: {PUT_BACK}",
        ),
    ],
    ids=["another's key", "another roster"],
)
def test_another_is_refused_by_every_survivor(
    keys: Path, identity: str, roster: str, why: str, without_roster: str
) -> None:
    back = of_roster(keys, identity, roster)
    assert refusals(met(settings(), of_roster(keys)), settings(), back) == {why}
    assert refusals(met(settings(), of_first_start(keys)), settings(), back) == {without_roster}


def test_a_proof_is_for_one_silo_and_one_time(keys: Path) -> None:
    config, signer = settings(), of_roster(keys)
    admissions = met(config, signer)
    assert refusals(admissions, config, signer, silo=1) == {UNPROVED}
    challenge = asked(admissions)
    as_another = Admission(config, 1, "model", "columns of 1", signer(BACK)).claim(challenge)
    assert admissions[0].refusal(BACK, challenge, as_another) == UNPROVED
    old = Admission(config, BACK, "model", f"columns of {BACK}", signer(BACK)).claim(asked(admissions))
    assert admissions[0].refusal(BACK, asked(admissions), old) == UNPROVED


def test_what_is_compared(keys: Path) -> None:
    signer = of_roster(keys)
    admissions = met(settings(), signer)
    other = settings().model_copy(update={"run": configuration.RunConfig(seed=5)})
    assert refusals(admissions, other, signer) == {"run.seed is 0 in this run and 5 at silo 2"}
    assert refusals(admissions, settings(data="inst0.csv"), signer) == {
        "its data.path names another place than at the start: name the one of before"
    }
    assert refusals(admissions, settings(), signer, model="another") == {
        "its data or its task makes another model than the run's: restore them"
    }
    assert refusals(admissions, settings(), signer, columns="columns of 1") == {
        "the columns of its data have other names or kinds than at the start: restore them"
    }


def test_another_version_is_refused(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, signer = settings(), of_roster(keys)
    admissions = met(config, signer)
    challenge = asked(admissions)
    with monkeypatch.context() as once:
        once.setattr(silofl, "__version__", "0.0.1")
        claim = Admission(config, BACK, "model", f"columns of {BACK}", signer(BACK)).claim(challenge)
    said = admissions[0].refusal(BACK, challenge, claim)
    assert said == "it has another version of silofl: install one everywhere"


@pytest.mark.parametrize(
    "claim",
    [
        *(b"", b"\xff", b"[]", b"{}", b"[" * 60_000, b'{"statement": 1, "signature": ""}'),
        b'{"statement": "{}", "signature": "zz"}',
    ],
    ids=lambda claim: claim[:12].decode(errors="replace"),
)
def test_what_cannot_be_read_is_refused(keys: Path, claim: bytes) -> None:
    admissions = met(settings(), of_roster(keys))
    said = admissions[0].refusal(BACK, asked(admissions), claim)
    assert said == "what it says of itself cannot be read: install one version of silofl everywhere"


@pytest.mark.parametrize("statement", [b"{}", b"[]"])
def test_a_signed_statement_that_cannot_be_read_is_refused(keys: Path, statement: bytes) -> None:
    signer = of_roster(keys)
    admissions = met(settings(), signer)
    challenge = asked(admissions)
    signature = prove(signer(BACK).identity, challenge, BACK, statement).hex()
    claim = json.dumps({"statement": statement.decode(), "signature": signature}).encode()
    assert "what it says of itself cannot be read" in admissions[0].refusal(BACK, challenge, claim)


def test_a_silo_may_withdraw(keys: Path) -> None:
    admissions = met(settings(), of_roster(keys))
    assert admissions[0].refusal(BACK, b"", WITHDRAWN) == "its own standard error says why"
