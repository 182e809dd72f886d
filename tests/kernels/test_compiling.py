"""Kernels compile where they must, are kept safely, and say so clearly where they cannot run."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest

from silofl_kernels.cpu import features, jit

from . import scenario

ROOT = Path(__file__).resolve().parents[2]


def launch(*prgs: str, **environment: str) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    return subprocess.Popen(
        [sys.executable, "-m", "tests.kernels.scenario", *prgs],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": paths, **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def finish(process: subprocess.Popen[str]) -> tuple[list[list[str]], str]:
    try:
        out, err = process.communicate(timeout=100)
    finally:
        process.kill()
    return [line.split() for line in out.splitlines()], err


@pytest.mark.long  # the groups of `make test` start together with a cold cache, too
@pytest.mark.parametrize("number", [2, 5])
def test_processes_start_together_with_a_cold_cache(tmp_path: Path, number: int) -> None:
    want = scenario.masks_alone("aes-128-ctr")
    started = [launch("aes-128-ctr:masks", NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(number)]
    for process in started:
        lines, err = finish(process)
        assert (process.returncode, lines[-1][1], err) == (0, want, "")
    kept = list(tmp_path.rglob("*.nbk"))
    assert len(kept) == len({file.name for file in kept}) == 2
    assert not list(tmp_path.rglob("*.tmp"))
    for file in kept:  # what a crashed disk leaves behind is a miss, not a crash
        file.write_bytes(file.read_bytes()[:-100])
    lines, err = finish(launch("aes-128-ctr:masks", NUMBA_CACHE_DIR=str(tmp_path)))
    assert (lines[-1][1], err) == (want, "")


@pytest.mark.skipif("aes" not in features.instruction_sets(), reason="plays older x86 processors")
@pytest.mark.long
@pytest.mark.parametrize("part", [":masks", ""])
def test_older_processors(part: str) -> None:
    chacha = f"chacha20{part}"
    first = launch("aes-128-ctr:masks", chacha, NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="")
    second = launch("aes-128-ctr:masks", NUMBA_CPU_NAME="x86-64", NUMBA_CPU_FEATURES="+sse2,+aes")
    lines, err = finish(first)
    masks, told = scenario.masks_alone("aes-128-ctr"), scenario.masks_alone if part else scenario.digest
    assert lines == [["portable", masks], ["vector", told("chacha20")]], err
    lines, err = finish(second)
    assert lines == [["aesni", masks]], err


@pytest.mark.long
def test_without_a_compiler() -> None:
    lines, err = finish(
        launch("aes-128-ctr", "chacha20:masks", NUMBA_DISABLE_JIT="1", PYTHONWARNINGS="ignore")
    )
    digests = [scenario.digest("aes-128-ctr", noisy=True), scenario.masks_alone("chacha20")]
    assert lines == [["portable", digest] for digest in digests], err


def test_forcing_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(features.FORCE_VARIABLE, "portable")
    assert [features.path("aes"), features.path("chacha")] == ["portable", "portable"]
    monkeypatch.setenv(features.FORCE_VARIABLE, "vector")
    assert [features.path("aes"), features.path("chacha")] == [features.available("aes")[0], "vector"]
    monkeypatch.setenv(features.FORCE_VARIABLE, "sse9")
    with pytest.raises(ValueError, match="no path 'sse9'"):
        features.path("aes")


@pytest.mark.parametrize(
    ("name", "listed", "aes"),
    [
        (None, "-vaes", "aesni"),
        (None, "-avx512f", "vaes256"),
        (None, "-aes", "portable"),
        ("x86-64", "+sse2", "portable"),
        ("x86-64", "+sse2,+aes,+vaes,+avx512f,+avx512bw", "vaes512"),
        ("x86-64", "+no-such-thing", "portable"),
    ],
)
@pytest.mark.skipif(
    "vaes512" not in features.available("aes"), reason="needs the newest processor to play older ones"
)
def test_numba_variables_are_followed(
    name: str | None, listed: str, aes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features.config, "CPU_NAME", name)
    monkeypatch.setattr(features.config, "CPU_FEATURES", listed)
    assert features.available("aes")[0] == aes


def test_asking_for_a_path_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features.config, "CPU_NAME", "x86-64")
    monkeypatch.setattr(features.config, "CPU_FEATURES", "")
    features._path.cache_clear()
    monkeypatch.setenv(features.FORCE_VARIABLE, "vaes512")
    with pytest.raises(ValueError, match="this processor has portable"):
        features.path("aes")


def test_the_key_of_an_entry_knows_processor_sources_and_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    class Codegen:
        def __init__(self, *parts: str) -> None:
            self.parts = parts

        def magic_tuple(self) -> tuple[str, ...]:
            return self.parts

    def nothing(x: int) -> int:
        return x

    def key(label: str, *parts: str, sig: str = "int") -> str:
        return jit._KernelCache(nothing, label)._index_key(sig, Codegen(*parts))

    keys = [key("a", "znver5"), key("b", "znver5"), key("a", "skylake"), key("a", "znver5", sig="float")]
    monkeypatch.setattr(jit, "source_digest", lambda: "another source")
    keys.append(key("a", "znver5"))
    assert len(set(keys)) == len(keys)


def test_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a folder to write in nor a full disk stops a kernel."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jit._EntryFile, "save", refuse)

    def twice(x: np.ndarray) -> int:
        return 2 * x[0]

    assert jit.kernel(twice, "kept nowhere", jit.array("int64"))(np.array([21])) == 42
    monkeypatch.setattr(jit, "_KernelCache", refuse)

    def thrice(x: np.ndarray) -> int:
        return 3 * x[0]

    assert jit.kernel(thrice, "no folder", jit.array("int64"))(np.array([14])) == 42


def test_a_file_that_a_crash_has_cut_is_a_miss(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def found() -> tuple[int, bytes]:
        def plus(x: np.ndarray) -> int:
            return 1 + x[0]

        value = jit.kernel(plus, "one", jit.array("int64"))(np.array([41]))
        (file,) = tmp_path.rglob("*.nbk")
        return value, file.read_bytes()

    value, content = found()
    assert value == 42
    (file,) = tmp_path.rglob("*.nbk")
    written = file.stat().st_mtime_ns
    assert found() == (42, content)
    assert file.stat().st_mtime_ns == written  # it was read
    file.write_bytes(content[:-100])
    value, again = found()
    assert value == 42
    assert len(again) >= len(content)  # it was written anew


def test_kernels_are_kept_in_a_folder_of_the_user_s_own_where_numba_finds_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Sources and home are read-only. What others may write in is not read from, for it would be run."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    real, folder = jit._KernelCache, tmp_path / f"silofl-kernels-{os.getuid()}"

    def only_where_told(function: Any, label: str) -> Any:
        if not numba.config.CACHE_DIR:
            raise RuntimeError("no locator available")
        return real(function, label)

    monkeypatch.setattr(jit, "_KernelCache", only_where_told)

    def kept(times: int) -> int:
        def multiple(x: np.ndarray) -> int:
            return times * x[0]

        value: int = jit.kernel(multiple, f"by {times}", jit.array("int64"))(np.array([21]))
        assert value == 21 * times
        return len(list(folder.rglob("*.nbk")))

    assert kept(2) == 1
    assert numba.config.CACHE_DIR == ""
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o750)
    assert kept(3) == 1
    folder.chmod(0o700)
    other = os.getuid() + 1
    another = tmp_path / f"silofl-kernels-{other}"
    monkeypatch.setattr(os, "getuid", lambda: other)
    folder.rename(another)  # made by a user who is not this one
    assert kept(4) == 0
    assert len(list(another.rglob("*.nbk"))) == 1
    another.rename(folder)
    another.symlink_to(folder)
    assert kept(5) == 1
