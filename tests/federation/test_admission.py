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
from silofl.crypto.roster import Institution, Roster
from silofl.errors import ConfigError
from silofl.federation.failure.admission import WITHDRAWN, Admission

BACK = 2


def settings(folder: Path, identity: str = "", roster: str = "", data: str = "inst{silo}.csv") -> Config:
    secure = {"identity": identity and str(folder / identity), "roster": roster and str(folder / roster)}
    return configuration.parse({"data": {"path": data}, "secure": secure})


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


def met(config: Config) -> list[Admission]:
    def rank(comm: Communicator) -> Admission:
        return Admission.of(comm, config, comm.rank, "model", f"columns of {comm.rank}")

    return run_in_threads(3, rank, timeout_s=20)


def asked(admissions: list[Admission]) -> bytes:
    """What both survivors ask for, the same."""
    challenges = run_in_threads(2, lambda comm: admissions[comm.rank].challenge(comm, (BACK,)), timeout_s=20)
    assert challenges[0] == challenges[1]
    first: bytes = challenges[0]
    return first


def refusals(
    admissions: list[Admission], back: Config, *, silo: int = BACK, model: str = "model", columns: str = ""
) -> set[str]:
    """What the survivors say of a process that returns with this configuration."""
    challenge = asked(admissions)
    claim = Admission(back, silo, model, columns or f"columns of {BACK}").claim(challenge)
    return {one.refusal(BACK, challenge, claim) for one in admissions[:BACK]}


UNPROVED = (
    "it has not proved its identity: start it with the secure.identity whose key the roster has for silo 2"
)


def test_a_silo_that_is_itself_is_let_in(keys: Path) -> None:
    for config in (settings(keys), settings(keys, "k{silo}.pem", "roster.toml")):
        admissions = met(config)
        assert refusals(admissions, config) == {""}
        told = Admission(config, 1, "model")  # a silo that has rejoined judges as the others do
        told.take_over(json.loads(json.dumps(admissions[0].told())))
        assert refusals([admissions[0], told], config) == {""}


@pytest.mark.parametrize(
    ("identity", "roster", "why"),
    [
        ("k1.pem", "roster.toml", UNPROVED),
        ("", "", UNPROVED),
        ("k2.pem", "others.toml", "its secure.roster has other institutions: give every silo the same file"),
    ],
    ids=["another's key", "no key", "another roster"],
)
def test_another_is_refused_by_every_survivor(keys: Path, identity: str, roster: str, why: str) -> None:
    admissions = met(settings(keys, "k{silo}.pem", "roster.toml"))
    assert refusals(admissions, settings(keys, identity, roster)) == {why}


def test_a_proof_is_for_one_silo_and_one_time(keys: Path) -> None:
    config = settings(keys, "k{silo}.pem", "roster.toml")
    admissions = met(config)
    assert refusals(admissions, config, silo=1) == {UNPROVED}
    old = Admission(config, BACK, "model").claim(asked(admissions))
    assert admissions[0].refusal(BACK, asked(admissions), old) == UNPROVED


def test_what_is_compared(keys: Path) -> None:
    admissions = met(settings(keys))
    other = settings(keys).model_copy(update={"run": configuration.RunConfig(seed=5)})
    assert refusals(admissions, other) == {"run.seed is 0 in this run and 5 at silo 2"}
    assert refusals(admissions, settings(keys, data="inst0.csv")) == {
        "its data.path names another place than at the start: name the one of before"
    }
    assert refusals(admissions, settings(keys), silo=1) == refusals(
        admissions, settings(keys, data="inst0.csv")
    )
    assert refusals(admissions, settings(keys), model="another") == {
        "its data or its task makes another model than the run's: restore them"
    }
    assert refusals(admissions, settings(keys), columns="columns of 1") == {
        "the columns of its data have other names or kinds than at the start: restore them"
    }
    assert refusals(admissions, settings(keys, "k2.pem", "roster.toml")) == {
        "its secure.roster has other institutions: give every silo the same file"
    }


def test_another_version_is_refused(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(keys)
    admissions = met(config)
    challenge = asked(admissions)
    with monkeypatch.context() as once:
        once.setattr(silofl, "__version__", "0.0.1")
        claim = Admission(config, BACK, "model").claim(challenge)
    said = admissions[0].refusal(BACK, challenge, claim)
    assert said == "it has another version of silofl: install one everywhere"


@pytest.mark.parametrize(
    "claim",
    [
        *(b"", b"\xff", b"[]", b"{}", b"[" * 60_000, b'{"statement": "{}", "signature": ""}'),
        *(b'{"statement": "[]", "signature": "zz"}', b'{"statement": 1, "signature": ""}'),
    ],
    ids=lambda claim: claim[:12].decode(errors="replace"),
)
def test_what_cannot_be_read_is_refused(keys: Path, claim: bytes) -> None:
    admissions = met(settings(keys))
    said = admissions[0].refusal(BACK, asked(admissions), claim)
    assert said == "what it says of itself cannot be read: install one version of silofl everywhere"


def test_a_silo_may_withdraw(keys: Path) -> None:
    admissions: Any = met(settings(keys, "k{silo}.pem", "roster.toml"))
    assert admissions[0].refusal(BACK, b"", WITHDRAWN) == "its own standard error says why"


def test_half_an_identity_is_refused_before_it_is_shown(keys: Path) -> None:
    with pytest.raises(ConfigError, match="belong together"):
        Admission(settings(keys, identity="k2.pem"), BACK, "model").claim(bytes(48))
