"""Files that others may not read, and links that are not followed to them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from silofl import private_files
from silofl.checkpoint.atomic_files import PieceWriter, read_tree, write_arrays, write_bytes, write_packed
from silofl.checkpoint.opening_log import Opening, OpeningLog
from silofl.crypto.identity import Identity, read_passphrase
from silofl.crypto.key_file import load_or_make
from silofl.errors import CheckpointError, ConfigError, StorageError
from silofl.federation import rundir
from silofl.federation.privacy.release_log import Entry, ReleaseLog

LINK = "it is a symbolic link, and none is followed here"


@pytest.fixture
def nobody_is_kept_out() -> Iterator[None]:
    """An umask that takes away nothing."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def in_pieces(path: Path) -> None:
    writer = PieceWriter(path)
    writer.write(b"whole")
    writer.finish()


WRITERS: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda path: write_bytes(path, b"whole"),
    "state": lambda path: write_packed(path, {"items": []}, {"a": np.ones(3)}),
    "pieces": in_pieces,
    "key": lambda path: load_or_make(path, 32),
    "identity": lambda path: Identity.generate().save(path),
    "release log": lambda path: ReleaseLog(path, "0" * 32).append(Entry(1, 0, "", (0,), ())),
    "opening log": lambda path: OpeningLog(path, "0" * 32, 3).append(Opening(1, (0, 1, 2), (0, 1, 2))),
}


@pytest.mark.usefixtures("nobody_is_kept_out")
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_a_silo_keeps_is_its_owner_s_alone(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    write(tmp_path / "file")
    assert mode(tmp_path / "file") == 0o600


@pytest.mark.usefixtures("nobody_is_kept_out")
def test_results_are_for_people(tmp_path: Path) -> None:
    write_bytes(tmp_path / "bytes", b"", private=False)
    write_arrays(tmp_path / "model", {"a": np.ones(3)}, {}, private=False)
    assert mode(tmp_path / "bytes") == mode(tmp_path / "model") == 0o666


@pytest.mark.usefixtures("nobody_is_kept_out")
def test_a_folder_that_is_made_is_its_owner_s_and_one_that_is_there_stays(tmp_path: Path) -> None:
    ReleaseLog(tmp_path / "run" / "silo-0001" / "privacy.jsonl", "0" * 32).repair()
    assert [mode(tmp_path / "run"), mode(tmp_path / "run/silo-0001")] == [0o777, 0o700]
    (tmp_path / "mine").mkdir(0o755)
    private_files.make_folder(tmp_path / "mine")
    assert mode(tmp_path / "mine") == 0o755
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    with pytest.raises(OSError, match=LINK):
        private_files.make_folder(tmp_path / "link")


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_no_write_follows_a_link(tmp_path: Path, write: Callable[[Path], Any]) -> None:
    """Neither under the file's own name nor under that which it has while it is written."""
    (tmp_path / "other").write_text("important")
    for name in ("file", ".file.tmp", ".file.0.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "other")
    try:
        write(tmp_path / "file")
    except (StorageError, ConfigError) as error:
        assert "\n" not in str(error)  # noqa: PT017
    assert (tmp_path / "other").read_text() == "important"


@pytest.mark.parametrize("planted", [".writable-1", ".silo-0001.lock", "metrics.jsonl"])
def test_a_link_in_a_shared_run_directory_costs_nobody_a_file(tmp_path: Path, planted: str) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "other").write_text("important")
    (run / planted).symlink_to(tmp_path / "other")
    rundir._refuse_unwritable(run, 1)
    try:
        rundir.lock(run, 1, resume=False).close()
    except StorageError as error:
        assert planted == ".silo-0001.lock"
        assert str(error).endswith(LINK)  # noqa: PT017
    directory = rundir.RunDirectory(run)
    metrics: Any = type("Metrics", (), {"to_json": lambda self: {"round": 1}})()
    directory.append(metrics)
    assert (tmp_path / "other").read_text() == "important"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["pipe", "folder"])
def test_no_key_is_waited_for(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "identity.pem", 0o600)
    with pytest.raises(ConfigError, match="cannot be read"):
        Identity.load(tmp_path / "identity.pem")


@pytest.mark.parametrize(
    "read",
    [lambda path: load_or_make(path, 32), Identity.load, read_passphrase],
    ids=["silo's key", "identity", "passphrase"],
)
def test_no_key_is_read_through_a_link_or_where_others_may_read_it(
    tmp_path: Path, read: Callable[[Path], Any]
) -> None:
    Identity.generate().save(tmp_path / "whole")
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    with pytest.raises(ConfigError, match=f"link cannot be read: {LINK}"):
        read(tmp_path / "link")
    (tmp_path / "whole").chmod(0o640)
    with pytest.raises(ConfigError, match=r"may be read by others \(mode 0640\); run `chmod 600"):
        read(tmp_path / "whole")


def test_no_state_is_read_through_a_link(tmp_path: Path) -> None:
    digest, _ = write_packed(tmp_path / "whole", {"items": []}, {})
    (tmp_path / "link").symlink_to(tmp_path / "whole")
    assert read_tree(tmp_path / "whole", digest) == {}
    with pytest.raises(CheckpointError, match=LINK):
        read_tree(tmp_path / "link", digest)


LOADS = {
    "a silo's key": "from silofl.crypto.key_file import load_or_make; load_or_make(path, 32)",
    "an identity": "from silofl.crypto.identity import Identity; Identity.generate().save(path)\n"
    "Identity.load(path)",
    "a run": "import silofl\ntry: silofl.train(path, resume=True)\nexcept Exception: pass",
}


@pytest.mark.covering(0)
@pytest.mark.parametrize("load", LOADS.values(), ids=LOADS)
def test_no_core_dump_is_left_where_keys_are(tmp_path: Path, load: str) -> None:
    script = (
        "import resource, pathlib; hard = resource.getrlimit(resource.RLIMIT_CORE)[1]\n"
        "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))\n"
        f"path = pathlib.Path({str(tmp_path / 'a')!r})\n{load}\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE)[0], hard != 0)"
    )
    if "train" in load:
        (tmp_path / "a").write_text(f'[run]\ndir = "{tmp_path}/run"\n[task]\nname = "files"\n')
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "0 True\n", done.stderr
