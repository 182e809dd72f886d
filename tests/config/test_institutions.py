"""`[[institution]]`: each silo's own values in the one file of all, and what is refused of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from silofl import config as configuration
from silofl.config import LOCAL_KEYS, digest
from silofl.config.settings import load
from silofl.errors import ConfigError
from silofl.federation.placement import hosts_of, silos_here
from silofl.launcher.hosts import Host

SHARED = '[task]\nname = "files"\nclasses = 2\n[train]\nlr = 0.3\n'
TWO = """
[[institution]]
name = "north"
host = "a"
device = "cpu"
data.path = "data/north-{silo}.csv"
data.decimal = ","

[[institution]]
name = "Klinik Süd"
host = "b"
data.path = "data/south.csv"
"""


def settings(tmp_path: Path, text: str, *overrides: str, run: str = "") -> Any:
    path = tmp_path / "mine.toml"
    path.write_text(SHARED + text)
    return load(path, list(overrides), {"dir": run} if run else {})


def test_each_silo_has_its_own_values_and_what_all_share(tmp_path: Path) -> None:
    both = settings(tmp_path, TWO, "train.lr=0.5")
    north, south = both.of(0), both.of(1)
    assert (north.data.path, north.data.decimal) == ("data/north-{silo}.csv", ",")
    assert (south.data.path, south.data.decimal) == ("data/south.csv", ".")
    assert (north.train.device, south.train.device) == ("cpu", configuration.TrainConfig().device)
    assert north.train.lr == south.train.lr == 0.5
    assert north.run.name == south.run.name == "mine"
    assert digest(north) == digest(south)  # ranks compare what they share alone
    assert [one.name for one in both.institutions] == ["north", "Klinik Süd"]
    assert both.hosts() == ("a", "b")
    assert both.silos(None) == both.silos(2) == 2


def test_a_file_without_them_is_as_ever(tmp_path: Path) -> None:
    plain = settings(tmp_path, "", run="here")
    assert plain.own is None
    assert plain.of(3) == configuration.load(tmp_path / "mine.toml", [], {"dir": "here"})
    assert (plain.silos(None), plain.silos(7), plain.hosts()) == (4, 7, ())


def test_every_key_that_may_differ_may_be_an_institutions_own(tmp_path: Path) -> None:
    text = '[[institution]]\nname = "a"\n'
    for section, key in sorted(LOCAL_KEYS - {("run", "display")}):
        value = {"units": '{age = "years"}', "decimal": '","'}.get(key, '"x"')
        text += f"{section}.{key} = {0.5 if key in ('budget_epsilon', 'budget_delta') else value}\n"
    own = settings(tmp_path, text).own_keys()
    assert own == LOCAL_KEYS - {("run", "display")}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            TWO.replace("Klinik Süd", "north"),
            "two institutions are named 'north': give each a name of its own",
        ),
        (TWO.replace('name = "north"', ""), r"\[\[institution\]\] number 1 has no name"),
        (TWO.replace('"north"', "3"), r"\[\[institution\]\] number 1 has no name"),
        (
            TWO.replace("data.decimal", "data.decimals"),
            "'north': data.decimals .* did you mean data.decimal?",
        ),
        (TWO.replace("device =", "devices ="), "'north': devices is no key .* did you mean device?"),
        (TWO.replace("device = ", "train.lr = 3 # "), "'north': train.lr is no key that one institution has"),
        (TWO.replace('"a"', '"a b"'), "'north': host = 'a b' is no name of a host"),
        (TWO.replace('"a"', '"-x"'), "host = '-x' is no name of a host"),
        (TWO + "train.device = 3", "institution 'Klinik Süd': train.device = 3 is not allowed"),
        (TWO + '[data]\npath = "x"', "data.path is set for all silos and for institution 'north'"),
        (TWO.replace("data.path", "# ", 1), "'Klinik Süd' has a data.path and 'north' has none"),
        (TWO.replace("device =", 'train.device = "cpu"\ndevice ='), "which are the same: remove one"),
        (TWO.replace('host = "a"', ""), "institution 'north' has no host and others have one"),
        ("institution = 3\n", "write .*institution.* once for each"),
        ('[institution]\nname = "a"\n', "write .*institution.* once for each"),
    ],
)
def test_what_cannot_be_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + SHARED if text.startswith("institution") else SHARED + text)
    with pytest.raises(ConfigError, match=sentence) as refused:
        whole(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("coordinator", "without", "sentence"),
    [
        (1, (), "remove its data.path, or set topology.coordinator to the number of another"),
        (0, (), "remove its data.path, or set topology.coordinator to the number of another"),
        (0, (2,), "set topology.coordinator = 2, for 'site 2' has no data.path"),
        (0, (1, 2), "remove its data.path, or set topology.coordinator to the number of another"),
    ],
)
def test_data_of_a_coordinator_are_refused_by_its_name(
    tmp_path: Path, coordinator: int, without: tuple[int, ...], sentence: str
) -> None:
    text = f'[topology]\nname = "star"\ncoordinator = {coordinator}\n'
    for number in range(3):
        path = "" if number in without else f'data.path = "{number}.csv"\n'
        text += f'[[institution]]\nname = "site {number}"\n{path}'
    with pytest.raises(ConfigError) as refused:
        settings(tmp_path, text)
    assert str(refused.value) == (
        f"institution 'site {coordinator}' is the coordinator, by topology.coordinator = {coordinator}, and "
        f"has a data.path, which nobody reads: {sentence}"
    )


@pytest.mark.parametrize("section", ["data", "train"])
def test_a_section_that_is_none_is_refused_as_ever(tmp_path: Path, section: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"{section} = 3\n{TWO}")
    with pytest.raises(ConfigError, match=f"{section} = 3 is not allowed"):
        load(path, [], {}).of(0)


def whole(path: Path) -> None:
    """Read all that commands read of a file."""
    found = load(path)
    found.hosts()
    for silo in range(2):
        found.of(silo)


def test_overrides_and_run_directories_do_not_hide_an_institutions_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.path is set for all silos and for institution 'north'"):
        settings(tmp_path, TWO, "data.path=x")
    with pytest.raises(ConfigError, match=r"run\.dir is set for all silos and for institution 'a'"):
        settings(tmp_path, '[[institution]]\nname = "a"\nrun.dir = "x"', run="y")
    with pytest.raises(
        ConfigError, match="2 institutions and there are to be 3 silos: leave out -n, or give"
    ):
        settings(tmp_path, TWO).silos(3)
    with pytest.raises(ConfigError, match=r"for each silo: give silofl\.train or silofl\.simulate its path"):
        configuration.load(tmp_path / "mine.toml")


def test_silos_run_on_their_institutions_hosts_in_order(tmp_path: Path) -> None:
    text = "".join(
        f'[[institution]]\nname = "{number}"\nhost = "{host}"\n'
        for number, host in enumerate(["localhost", "far", "far", "localhost"])
    )
    four = settings(tmp_path, text)
    hosts = hosts_of(four, None, None, 4)
    assert hosts == (Host("localhost", 1), Host("far", 2), Host("localhost", 1))
    assert list(silos_here(four, 4, hosts, one_node=True)) == [0, 3]
    with pytest.raises(ConfigError, match="institutions have hosts, and --host or --hostfile names others"):
        hosts_of(four, "a:4", None, 4)
    plain = settings(tmp_path, "")
    assert hosts_of(plain, "a:4", None, 4) == (Host("a", 4),)
    assert list(silos_here(plain, 4, (), one_node=True)) == [0, 1, 2, 3]
    assert (
        list(silos_here(plain, 4, hosts, one_node=True))
        == list(silos_here(plain, 4, (), one_node=False))
        == []
    )


def test_a_mistake_that_all_share_is_no_institution_s(tmp_path: Path) -> None:
    shared = settings(tmp_path, TWO, "data.test_fraction=0")
    with pytest.raises(ConfigError, match=r"^data\.test_fraction = 0 is not allowed"):
        shared.of(1)
    own = settings(tmp_path, TWO.replace('data.decimal = ","', 'data.decimal = ";"'))
    with pytest.raises(ConfigError, match=r"^institution 'north': data\.decimal"):
        own.of(0)
