"""Files that people write on any system: a byte order mark is no part of what they say."""

from __future__ import annotations

from pathlib import Path

import pytest

from silofl import config as configuration
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.errors import ConfigError

TEXT = '[run]\r\nrounds = 7\r\nname = "Größe"\r\n'
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_configuration_with_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.toml").write_bytes(TEXT.encode(encoding))
    run = configuration.load(tmp_path / "a.toml").run
    assert (run.rounds, run.name) == (7, "Größe")


def test_a_configuration_in_an_older_encoding_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(TEXT.encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        configuration.load(path)
    assert str(caught.value) == f"{path} is not valid TOML: it is not UTF-8 text; save it as UTF-8"


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("ending", [".toml", ".json"])
def test_a_roster_with_a_byte_order_mark(tmp_path: Path, encoding: str, ending: str) -> None:
    roster = Roster((Institution("north", Identity.generate().public),))
    path = tmp_path / f"roster{ending}"
    path.write_bytes(roster.dumps(as_json=ending == ".json").encode(encoding))
    assert Roster.load(path) == roster
