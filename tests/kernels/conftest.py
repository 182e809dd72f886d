"""Keystream tests run on every path of this processor: `make test` on the fastest and the portable."""

from __future__ import annotations

import pytest

from silofl_kernels import KEY_BYTES, Prg
from silofl_kernels.cpu import features
from silofl_kernels.prg import family

WAYS = [
    pytest.param((prg, path), id=f"{prg}-{path}", marks=[pytest.mark.long] * (path in paths[1:-1]))
    for prg in KEY_BYTES
    for paths in [features.available(family(prg))]
    for path in paths
]
AES = [prg for prg in KEY_BYTES if family(prg) == "aes"]
MAIN_WAYS = [
    pytest.param(
        *way.values,
        id=way.id,
        marks=[*way.marks, *[pytest.mark.long] * (way.values[0] in {(prg, "portable") for prg in AES})],
    )
    for way in WAYS
]
"""For kernels that are given a stream whose bytes are tested for themselves: portable code of
one cipher, of which ChaCha20's compiles in half the time."""
FEW_WAYS = [
    pytest.param(*way.values, id=way.id, marks=pytest.mark.long if way.values[0] not in AES else way.marks)
    for way in MAIN_WAYS
]
"""For kernels of several seconds to compile: AES on its fastest path, and all others by `make test-long`."""
FASTEST = [("aes-128-ctr", features.available("aes")[0]), ("chacha20", features.available("chacha")[0])]


@pytest.fixture(params=WAYS)
def prg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prg:
    """A generator, with one of its paths forced."""
    name, path = request.param
    monkeypatch.setenv(features.FORCE_VARIABLE, path)
    return name


@pytest.fixture(params=MAIN_WAYS)
def main_prg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prg:
    """A generator, with one of its paths forced, for kernels that use what it gives."""
    name, path = request.param
    monkeypatch.setenv(features.FORCE_VARIABLE, path)
    return name


@pytest.fixture(params=FEW_WAYS)
def few_prg(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Prg:
    """A generator, with one of its paths forced, for kernels that are slow to compile with what it gives."""
    name, path = request.param
    monkeypatch.setenv(features.FORCE_VARIABLE, path)
    return name


@pytest.fixture(params=FASTEST, ids="-".join)
def fast_prg(request: pytest.FixtureRequest) -> Prg:
    """A generator of each family on the path that is used by default."""
    return request.param[0]
