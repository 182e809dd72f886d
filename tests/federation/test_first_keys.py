"""Without a roster the keys of a run's first start are kept, and who returns is held to them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint import run_keys
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Roster
from silofl.crypto.signer import Signer
from silofl.errors import ConfigError
from silofl.federation.first_keys import returning_keys
from tests.federation.test_run_identity import SILOS, manifests, of_silos, refusal
from tests.federation.threads import federate, prepare

BUDDY = {"buddy": True}
GIVE_UP = (
    'put it back from a copy, leave the silo out by failure.policy = "shrink", or begin a new run with --run'
)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(monkeypatch)


def folder(path: Path, silo: int) -> Path:
    return path / f"run-{silo}" / f"silo-{silo:04d}"


def resume(path: Path, **more: Any) -> list[Any]:
    return federate(of_silos(path, rounds=4, **more), SILOS, resume=True)


def test_all_keep_the_keys_of_the_first_start_and_sign_by_them(tmp_path: Path) -> None:
    federate(of_silos(tmp_path, rounds=2), SILOS)
    rosters = {(folder(tmp_path, silo) / run_keys.ROSTER).read_bytes() for silo in range(SILOS)}
    roster = Roster.parse(rosters.pop(), Path("keys.toml"))
    assert not rosters
    for silo in range(SILOS):
        own = folder(tmp_path, silo)
        assert Identity.load(own / run_keys.IDENTITY).public == roster.institutions[silo].key
        assert own.stat().st_mode & 0o777 == 0o700
        assert {one.stat().st_mode & 0o777 for one in own.iterdir()} == {0o600}
    before = {
        one: (one.read_bytes(), one.stat().st_mode) for one in tmp_path.glob(f"*/*/{run_keys.IDENTITY}")
    }
    assert all(isinstance(result, dict) for result in resume(tmp_path))
    assert before == {one: (one.read_bytes(), one.stat().st_mode) for one in before}
    assert {tuple(one.signatures) for one in manifests(tmp_path)} == {(0, 1, 2)}


def other_keys(path: Path) -> str:
    """It returns with a key of its own making, and a list of keys that has it."""
    known = Roster.load(folder(path, 1) / run_keys.ROSTER).institutions
    new = Identity.generate()
    keys = [new.public if silo == 1 else one.key for silo, one in enumerate(known)]
    run_keys.keep(path / "run-1", 1, Signer(new, Roster.ephemeral(keys)))
    return "silo 1 has other public keys of the run's first start than silo 0: put its own "


def stolen(path: Path) -> str:
    """It returns with silo 0's key."""
    shutil.copy(folder(path, 0) / run_keys.IDENTITY, folder(path, 1))
    return f"silo 1 has not proved that it is the silo of the run's first start: put its own {path}/"


def lost(path: Path) -> str:
    (folder(path, 1) / run_keys.IDENTITY).unlink()
    file = folder(path, 1) / run_keys.IDENTITY
    return (
        f"{file} is missing, by which silo 1 proves that it is the silo of the run's first start: {GIVE_UP}"
    )


def linked(path: Path) -> str:
    file = folder(path, 1) / run_keys.IDENTITY
    file.rename(path / "elsewhere.pem")
    file.symlink_to(path / "elsewhere.pem")
    return f"the private key {file} cannot be read: "


def linked_folder(path: Path) -> str:
    folder(path, 1).rename(path / "elsewhere")
    folder(path, 1).symlink_to(path / "elsewhere")
    return f"{folder(path, 1)} is a symbolic link, and none is followed here"


def shown(path: Path) -> str:
    (folder(path, 1) / run_keys.IDENTITY).chmod(0o644)
    return f"{folder(path, 1) / run_keys.IDENTITY} may be read by others (mode 0644)"


@pytest.mark.covering(0)
@pytest.mark.parametrize("spoil", [other_keys, stolen, lost, linked, linked_folder, shown])
def test_a_resume_refuses_a_silo_that_is_not_the_one_of_the_first_start(tmp_path: Path, spoil: Any) -> None:
    federate(of_silos(tmp_path, rounds=2), SILOS)
    said = spoil(tmp_path)
    assert refusal(resume(tmp_path)).startswith(said)


def test_a_job_that_ended_before_anything_was_committed_makes_new_keys(tmp_path: Path) -> None:
    federate(of_silos(tmp_path, rounds=2), SILOS)
    old = (folder(tmp_path, 0) / run_keys.IDENTITY).read_bytes()
    for silo in range(SILOS):
        shutil.rmtree(tmp_path / f"run-{silo}/checkpoints")
        (folder(tmp_path, silo) / "openings.jsonl").unlink()
    (folder(tmp_path, 1) / run_keys.IDENTITY).unlink()  # as one that was killed before it had written it
    assert all(isinstance(result, dict) for result in resume(tmp_path))
    assert (folder(tmp_path, 0) / run_keys.IDENTITY).read_bytes() != old


def test_with_a_buddy_a_silo_that_lost_its_disk_is_itself_by_its_key_file(tmp_path: Path) -> None:
    federate(of_silos(tmp_path, rounds=2, checkpoint=BUDDY), SILOS)
    shutil.rmtree(tmp_path / "run-1")
    (tmp_path / "key-1").rename(tmp_path / "kept")
    sentence = refusal(resume(tmp_path, checkpoint=BUDDY))
    assert sentence.startswith("silo 1 has not proved that it is the silo of the run's first start")
    shutil.rmtree(tmp_path / "run-1")
    os.replace(tmp_path / "kept", tmp_path / "key-1")
    assert all(isinstance(result, dict) for result in resume(tmp_path, checkpoint=BUDDY))
    assert len({(folder(tmp_path, silo) / run_keys.ROSTER).read_bytes() for silo in range(SILOS)}) == 1


def test_a_respawned_silo_has_its_own_key_or_stays_away(tmp_path: Path) -> None:
    configs = of_silos(tmp_path, rounds=2)
    federate(configs, SILOS)
    path, told = tmp_path / "run-1", (folder(tmp_path, 1) / run_keys.ROSTER).read_text()
    signer = returning_keys(configs[1], path, 1, "0" * 32, "")
    assert signer.identity.public == Roster.parse(told.encode(), path).institutions[1].key
    (folder(tmp_path, 1) / run_keys.IDENTITY).unlink()
    with pytest.raises(ConfigError, match=r"identity\.pem is missing, by which silo 1 proves"):
        returning_keys(configs[1], path, 1, "0" * 32, told)
