"""Which run a directory holds: its id, kept by a resume, and the members' signatures on its rounds."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint.manifest import parse
from silofl.config import Config
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.errors import SiloflError
from silofl.federation.privacy.release_log import ReleaseLog
from tests.federation.threads import federate, prepare, settings

SILOS = 3
PRIVATE = {"unit": "silo", "noise_multiplier": 1.0}


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


def of_silos(path: Path, *, identities: bool = False, rounds: int = 3, **more: Any) -> list[Config]:
    """A configuration a silo, each with a run directory and a key of its own."""
    secure = [{"protocol": "secagg"} for _ in range(SILOS)]
    if identities:
        for silo, one in enumerate(secure):
            one |= {"identity": str(path / f"{silo}.pem"), "roster": str(path / "roster.toml")}
    keys = {"key_file": str(path / "key-{silo}")}
    return [
        settings(
            path / f"run-{silo}",
            run={"rounds": rounds},
            secure=secure[silo],
            checkpoint=more.get("checkpoint", {}) | keys,
            privacy=more.get("privacy", {}),
        )
        for silo in range(SILOS)
    ]


def make_identities(path: Path) -> None:
    made = [Identity.generate() for _ in range(SILOS)]
    for silo, one in enumerate(made):
        one.save(path / f"{silo}.pem")
    roster = Roster(tuple(Institution(str(silo), one.public) for silo, one in enumerate(made)))
    (path / "roster.toml").write_text(roster.dumps())


def manifests(path: Path) -> list[Any]:
    return [parse(one.read_bytes()) for one in sorted(path.glob("run-*/checkpoints/round-*/manifest.json"))]


def refusal(results: list[Any]) -> str:
    """The one sentence with which all silos ended."""
    assert all(isinstance(result, SiloflError) for result in results), results
    assert {result.exit_code for result in results} == {2}
    assert len({result.rank for result in results}) == 1  # which alone prints it
    sentence = str(results[results[0].rank])
    assert "\n" not in sentence
    return sentence


@pytest.mark.covering(0)
@pytest.mark.parametrize("identities", [False, True])
def test_a_run_has_one_id_which_its_resume_keeps(tmp_path: Path, identities: bool) -> None:
    make_identities(tmp_path)
    first = federate(of_silos(tmp_path, identities=identities), SILOS)
    assert all(isinstance(result, dict) for result in first), first
    (run,) = {one.run for one in manifests(tmp_path)}
    resumed = federate(of_silos(tmp_path, identities=identities, rounds=5), SILOS, resume=True)
    assert all(result["rounds"] == 5 for result in resumed)
    found = manifests(tmp_path)
    assert {one.run for one in found} == {run}
    assert max(one.round for one in found) == 5
    assert {tuple(one.signatures) for one in found} == {(0, 1, 2)}
    shutil.rmtree(tmp_path / "run-0")
    shutil.rmtree(tmp_path / "run-1")
    shutil.rmtree(tmp_path / "run-2")
    federate(of_silos(tmp_path, identities=identities), SILOS)
    assert run not in {one.run for one in manifests(tmp_path)}


def test_a_resume_refuses_a_round_that_a_member_did_not_sign(tmp_path: Path) -> None:
    make_identities(tmp_path)
    federate(of_silos(tmp_path, identities=True), SILOS)
    path = tmp_path / "run-2/checkpoints/round-000003/manifest.json"
    manifest = parse(path.read_bytes())
    path.write_bytes(replace(manifest, signatures={k: manifest.signatures[k] for k in (0, 2)}).encode())
    sentence = refusal(federate(of_silos(tmp_path, identities=True, rounds=5), SILOS, resume=True))
    assert "the manifest of round 3 that silo 2 has is not signed by silo 1, one of its members" in sentence


def test_a_resume_refuses_rounds_that_were_committed_without_identities(tmp_path: Path) -> None:
    make_identities(tmp_path)
    federate(of_silos(tmp_path), SILOS)
    sentence = refusal(federate(of_silos(tmp_path, identities=True, rounds=5), SILOS, resume=True))
    assert "is not signed by silo 0" in sentence


def test_a_new_run_takes_up_nothing_that_any_silo_has_of_an_old_one(tmp_path: Path) -> None:
    federate(of_silos(tmp_path), SILOS)
    for silo in (0, 2):
        shutil.rmtree(tmp_path / f"run-{silo}")
    sentence = refusal(federate(of_silos(tmp_path), SILOS))
    assert sentence.startswith(f"{tmp_path}/run-1 already holds a run: add --resume")


def test_a_checkpoint_of_an_older_format_is_one_sentence(tmp_path: Path) -> None:
    federate(of_silos(tmp_path), SILOS)
    path = tmp_path / "run-1/checkpoints/round-000003/manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    sentence = refusal(federate(of_silos(tmp_path, rounds=5), SILOS, resume=True))
    assert sentence.startswith("the checkpoint is of format 2 and this silofl reads 3: resume it with")


@pytest.mark.covering(0)
@pytest.mark.parametrize("of", ["another run", "an older format"])
def test_a_release_log_of_another_run_counts_for_nothing(tmp_path: Path, of: str) -> None:
    federate(of_silos(tmp_path, privacy=PRIVATE), SILOS)
    log = tmp_path / "run-1/silo-0001/privacy.jsonl"
    assert json.loads(log.read_text().splitlines()[0])["run"] == manifests(tmp_path)[0].run
    if of == "another run":
        log.unlink()
        ReleaseLog(log, "6" * 32).repair()
        said = "is of another run than the checkpoints"
    else:
        log.write_text("".join(line + "\n" for line in log.read_text().splitlines()[1:]))
        said = "is not of format 2, which this silofl reads: resume the run with the version that wrote it"
    sentence = refusal(federate(of_silos(tmp_path, privacy=PRIVATE, rounds=5), SILOS, resume=True))
    assert sentence.startswith(f"{log} {said}")


def test_what_a_run_keeps_is_its_owner_s_alone_and_its_results_are_not(tmp_path: Path) -> None:
    federate(of_silos(tmp_path, privacy=PRIVATE, checkpoint={"buddy": True}), SILOS)
    open_to_others = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.stat().st_mode & 0o077 and "trace" not in path.parts
    }
    results = {"config.toml", "environment.json", "metrics.jsonl", "summary.json", "model.safetensors"}
    assert open_to_others == {*(f"run-{silo}" for silo in range(SILOS)), *(f"run-0/{one}" for one in results)}
    assert list(tmp_path.glob("run-1/checkpoints/round-*/silo-0000.sealed"))
