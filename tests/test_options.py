"""An option of several commands has one spelling, and every command that counts silos takes both words."""

from __future__ import annotations

import pytest
import typer
from typer.testing import CliRunner

from silofl.cli import app

GROUP = typer.main.get_command(app)
COUNT = {"-n", "--silos"}


def commands(group: typer.main.TyperGroup | object, *path: str) -> dict[str, list[set[str]]]:
    """Every command's options, by its words."""
    found = {}
    for name, one in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(one, "commands"):
            found |= commands(one, *path, name)
        else:
            found[" ".join((*path, name))] = [set(option.opts) for option in one.params]
    return found


COUNTING = sorted(name for name, options in commands(GROUP).items() if any(one & COUNT for one in options))


def test_so_many_commands_count_silos() -> None:
    assert {"launch", "check", "audit", "submit", "bench round", "bench recovery"} <= set(COUNTING)


@pytest.mark.parametrize("command", COUNTING)
def test_the_number_of_silos_has_both_words_everywhere(command: str) -> None:
    assert [one for one in commands(GROUP)[command] if one & COUNT] == [COUNT]


@pytest.mark.parametrize("word", ["-n", "--silos"])
def test_either_word_is_understood(word: str) -> None:
    done = CliRunner().invoke(app, ["submit", "launch/digits.toml", word, "7", "--dry-run"])
    assert "#SBATCH --ntasks=7\n" in done.output
