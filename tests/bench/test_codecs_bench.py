"""`silofl bench codecs`: errors and bytes that are known beforehand, and what is told of them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner

from silofl.bench import cli, codecs

pytestmark = pytest.mark.long  # it compiles every kernel

SIZE = 40_000


@pytest.fixture(scope="module")
def figures() -> dict[str, codecs.Figures]:
    found = codecs.run(parameters=SIZE, repeats=1)
    return {one.encode.name.removesuffix(": encode"): one for one in found}


@pytest.mark.parametrize(
    ("name", "error", "bias"),
    [
        ("8 bits", (0.003, 0.01), (0, 0.001)),
        ("8 bits, stochastic", (0.006, 0.015), (0, 0.001)),
        ("8 bits, error feedback", (0.003, 0.01), (0, 0.001)),
        ("8 bits, one agreed step", (0.006, 0.02), (0, 0.001)),
        ("16 bits", (1e-5, 5e-5), (0, 1e-5)),
        ("4 bits", (0.08, 0.2), (0, 0.05)),
        ("1 bit", (0.59, 0.62), (2 / math.pi - 1, 0.02)),  # means of magnitudes of a normal
        ("1 bit, stochastic", (2.0, 3.5), (0, 0.08)),
        ("rotation, blocks of 4096", (0, 1e-6), (0, 1e-6)),
        ("top 1 of 100", (0.93, 0.98), (-0.915, 0.03)),  # the square of the error: the rest is exact
        ("random 1 of 100", (8.0, 12.0), (0, 0.4)),
        ("count sketch, 1 of 10", (3.0, 4.2), (0, 0.1)),  # the median of five normals of variance 50
    ],
)
def test_errors_are_the_expected_ones(
    figures: dict[str, codecs.Figures], name: str, error: tuple[float, float], bias: tuple[float, float]
) -> None:
    one = figures[name]
    assert error[0] <= one.error <= error[1]
    assert one.bias == pytest.approx(bias[0], abs=bias[1])


def test_bytes_are_counted(figures: dict[str, codecs.Figures]) -> None:
    steps = 4 / 256
    want = {"8 bits": 1 + steps, "1 bit": 1 / 8 + steps, "packing alone, 2 bits": 1 / 4, "top 1 of 100": 0.08}
    told = {name: figures[name].bytes_per_parameter for name in want}
    assert told == pytest.approx(want, abs=1e-3)
    assert figures["packing alone, 4 bits"].error is None


def test_the_command_tells_a_person_and_a_program(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        cli.app, ["codecs", "--parameters", "500", "--repeats", "1", "--json", str(tmp_path / "told.json")]
    )
    assert result.exit_code == 0, result.output
    assert "8 bits, stochastic" in result.output
    told = json.loads((tmp_path / "told.json").read_text())
    assert told["machine"]["cores"] >= 1
    assert {"encode", "decode", "bytes_per_parameter", "error", "bias"} <= told["codecs"][0].keys()
