"""Fixtures of tests with a zygote of their own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.launcher.forks import eventually, program, zygotes


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Variables by which a zygote is this test's own."""
    return {**os.environ, "LC_SILOFL_TEST": str(tmp_path)}


@pytest.fixture
def forked(tmp_path: Path, environ: dict[str, str]) -> Iterator[str]:
    """A program that runs code in a fork of this test's zygote."""
    yield program(tmp_path, "forked")
    assert eventually(lambda: zygotes(tmp_path) == [], 20), "the zygote outlives what it serves"


@pytest.fixture(params=["cold", "forked"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "cold":
        return program(tmp_path, "cold", forks=False)
    return str(request.getfixturevalue("forked"))
