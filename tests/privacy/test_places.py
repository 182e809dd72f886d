"""Places of the noise: each is what it says, and nothing asks for their names."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from silofl.config import PrivacyConfig
from silofl.config.sections import PlaceName
from silofl.crypto.noise_keys import NoiseKeys
from silofl.crypto.secret import Secret
from silofl.errors import ConfigError
from silofl.privacy.places import PLACES
from silofl.privacy.places.base import Place
from silofl.privacy.plan import Plan
from silofl.transforms.base import Slice
from silofl_kernels import discrete_gaussian

ROOT = Path(__file__).resolve().parents[2]
SILOS, SIZE, VARIANCE = 5, 20_000, 64.0


def noise_in_a_sum(place: str, servers: tuple[int, ...], round_number: int = 1) -> Any:
    """Of zeros, whose slices are served by `servers`; None where silos bring noisy values."""
    if PLACES[place].alone:
        return None
    table = discrete_gaussian(VARIANCE)
    made = [
        PLACES[place].noise(table, NoiseKeys(Secret(bytes([silo + 1] * 32)), bytes(16), silo, run=bytes(16)))
        for silo in range(SILOS)
    ]
    total = np.zeros(SIZE, np.uint32)
    for one in made:
        zeros = np.zeros(SIZE, np.uint32)
        total += one.encode(zeros, Slice(0, round_number, fingerprint=b"of zeros"), zeros)
    parts = np.array_split(total, len(servers))
    ends = np.cumsum([0, *map(len, parts)])
    decoded = [
        made[silo].decode(part, Slice(int(first), round_number))
        for silo, part, first in zip(servers, parts, ends[:-1], strict=True)
    ]
    return np.concatenate(decoded).view(np.int32).astype(np.float64)


@pytest.mark.parametrize("name", PLACES)
def test_a_place_is_what_it_says(name: str) -> None:
    place, first = PLACES[name], noise_in_a_sum(name, (0, 1, 2))
    assert place.needed(SILOS, 0, 0) == place.sources(SILOS)
    assert 1 <= place.needed(SILOS, 1, 1) <= place.shares(SILOS - 1, 1) <= place.sources(SILOS)
    assert place.shares(SILOS, 1) == max(1, place.sources(SILOS) - 1)
    assert place.summed(SILOS) == (1 if place.alone else SILOS)
    assert place.shown((0, 1, 2), (0, 2)) == ((0, 1, 2) if place.alone else (0, 2))
    if first is not None:
        assert first.var() == pytest.approx(VARIANCE * place.sources(SILOS), rel=0.05)
        again = noise_in_a_sum(name, (0, 4, 2))  # silo 1 failed: a replica serves its slice
        assert np.array_equal(first, again) == place.repeatable
        assert not np.array_equal(first, noise_in_a_sum(name, (0, 1, 2), 2))


@pytest.mark.parametrize("name", PLACES)
def test_as_much_noise_as_was_promised_is_left(name: str) -> None:
    """After the dropouts and colluding silos that were allowed for, in units of the grid's sensitivity."""
    config = PrivacyConfig(unit="silo", place=name, noise_multiplier=2.0, colluding=1, dropouts=1)
    plan = Plan(config, 1000, 32, SILOS, 500, 1, 1)
    release = plan.of_sum(plan.grid(2.0), SILOS - 1)
    assert release.noise_multiplier >= 2.0 * (1 - 1e-12)


def test_a_private_sum_is_needed_where_a_share_is_less_than_the_promise() -> None:
    config = {"unit": "silo", "noise_multiplier": 2.0}
    for name, place in PLACES.items():
        plan = Plan(PrivacyConfig(place=name, **config), 1000, 32, SILOS, 500, 1, 1)  # type: ignore[arg-type]
        grid = plan.grid(2.0)
        by_silo = 0 if place.alone else place.sources(SILOS)
        assert place.needs_private_sum == (by_silo > 1 and grid.noise_multiplier(1) < 2.0)


def test_a_place_that_forgets_its_noise_adds_up_nothing() -> None:
    """Its sums would be in the clear: only a place of silos that stand alone has none."""

    class Forgetful(Place):
        pass

    with pytest.raises(NotImplementedError, match="Forgetful adds no noise"):
        Forgetful().noise(discrete_gaussian(VARIANCE), None)  # type: ignore[arg-type]


def test_noise_of_no_silo_is_refused() -> None:
    config = PrivacyConfig(unit="silo", noise_multiplier=2.0, colluding=3, dropouts=2)
    with pytest.raises(ConfigError, match="leave no noise of 5 silos"):
        Plan(config, 1000, 32, SILOS, 500, 1, 1)


def test_a_rotation_is_of_sums_alone() -> None:
    """A silo's own steps are not rotated, and their range must not be taken for that of rotated ones."""
    config = PrivacyConfig(unit="silo", place="local", noise_multiplier=2.0, rotate=True)
    assert not Plan(config, 1000, 32, SILOS, 500, 1, 1).rotates


def test_the_table_is_what_the_configuration_takes() -> None:
    assert get_args(PlaceName) == tuple(PLACES)
    assert get_type_hints(PrivacyConfig)["place"] == PlaceName


def compared(tree: ast.AST) -> list[int]:
    """Lines that compare `.place`, or anything with the name of a place, or look one up by it."""

    def names(node: ast.expr) -> bool:
        constants = {one.value for one in ast.walk(node) if isinstance(one, ast.Constant)}
        asks = isinstance(node, ast.Attribute) and node.attr == "place"
        return asks or any(isinstance(one, str) and one in PLACES for one in constants)

    lines = []
    for node in ast.walk(tree):
        parts: list[Any] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        if any(names(part) for part in parts):
            lines.append(node.lineno)  # type: ignore[attr-defined]
    return lines


@pytest.mark.parametrize(
    "planted", ['p.place == "local"', '"central" != x', 'x in ("local", "central")', '{"local": 1}']
)
def test_a_planted_comparison_is_found(planted: str) -> None:
    assert compared(ast.parse(planted)) == [1]


def test_no_source_compares_a_place_by_its_name() -> None:
    home = ROOT / "silofl/privacy/places"
    files = [path for path in (ROOT / "silofl").rglob("*.py") if path.parent != home]
    found = {str(path.relative_to(ROOT)): compared(ast.parse(path.read_text())) for path in files}
    assert {name: lines for name, lines in found.items() if lines} == {}
