"""Without a roster it is said that keys are ephemeral; ranks of which only some have keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config import SecureConfig
from silofl.crypto.signer import EPHEMERAL, OF_ROSTER, describe_keys, mixed_keys
from silofl.federation.dry_run import dry_run
from silofl.report.dry_run_table import print_dry_run
from tests.federation.test_run_identity import make_identities, refusal
from tests.federation.threads import federate, settings

PLAIN = {"display": "plain", "rounds": 1}


def with_keys(path: Path, silo: int) -> dict[str, str]:
    return {"identity": str(path / f"{silo}.pem"), "roster": str(path / "roster.toml")}


@pytest.mark.covering(0)
@pytest.mark.parametrize(("secure", "said"), [({}, EPHEMERAL), ({"protocol": "plain"}, "")])
def test_a_run_and_its_summary_say_what_ephemeral_keys_do_not_protect_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], secure: dict[str, Any], said: str
) -> None:
    summary = federate(settings(tmp_path, run=PLAIN, secure=secure), 3)[0]
    assert summary["keys"] == said
    lines = [line for line in capsys.readouterr().out.splitlines() if "keys" in line]
    assert lines == ([f"  keys: {said}", f"  keys     {said}"] if said else [])


def test_a_run_with_a_roster_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_identities(tmp_path)
    own = [settings(tmp_path / "run", run=PLAIN, secure=with_keys(tmp_path, silo)) for silo in range(3)]
    assert federate(own, 3)[0]["keys"] == OF_ROSTER
    assert "ephemeral" not in capsys.readouterr().out


def test_check_says_it_with_what_the_threshold_bears(capsys: pytest.CaptureFixture[str]) -> None:
    def lines(**secure: Any) -> dict[str, str]:
        tables = {"task": {"name": "synthetic"}, "run": {"display": "none"}, "secure": secure}
        print_dry_run(dry_run(configuration.parse(tables), 5))
        told = capsys.readouterr().out
        return dict(line.split(maxsplit=1) for line in told.splitlines() if len(line.split()) > 1)

    found = lines()
    assert found["keys"] == EPHEMERAL
    assert found["bears"].startswith("1 death, 3 colluding ")
    assert lines(identity="a.pem", roster="r.toml")["keys"] == OF_ROSTER
    assert lines(protocol="additive")["bears"].startswith("no deaths, 1 colluding of the committee of 2 ")
    assert {"keys", "bears"}.isdisjoint(lines(protocol="plain"))
    assert found["steps"] == (
        "each slice's is recomputed by 1 other silo: a server that lies is named and the run ends, unless it "
        "colludes with it"
    )
    assert "by 2 other silos" in lines(recompute=2)["steps"]
    for nobody in ({"recompute": 0}, {"protocol": "plain"}, {"protocol": "additive"}):
        assert lines(**nobody)["steps"].startswith("recomputed by no other silo")


@pytest.mark.parametrize("protocol", ["plain", "secagg"])
@pytest.mark.parametrize(("having", "named"), [({0, 2}, "rank 1 has no"), ({2}, "ranks 0, 1 have no")])
def test_ranks_of_which_some_have_no_keys_are_refused_together(
    tmp_path: Path, having: set[int], named: str, protocol: str
) -> None:
    make_identities(tmp_path)
    secure = [{"protocol": protocol} | (with_keys(tmp_path, k) if k in having else {}) for k in range(3)]
    sentence = refusal(federate([settings(tmp_path / "run", secure=one) for one in secure], 3))
    assert sentence == (
        f"{named} secure.identity and secure.roster, and the other ranks have: "
        "set both on every rank, or on none"
    )


def test_many_ranks_without_keys_are_one_short_sentence() -> None:
    assert "ranks 0, 1, 2, 3, 4, 5, 6, 7, ... have" in str(mixed_keys([False] * 20 + [True]))
    assert mixed_keys([True] * 3) is None is mixed_keys([False] * 3)
    assert describe_keys(SecureConfig(identity="a.pem")) == EPHEMERAL
