"""Audit trails: every change of a file is one sentence, and copies are held to one another."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from silofl.checkpoint.audit_trail import (
    FORMAT,
    PURPOSE,
    Entry,
    SignedEntry,
    TrailError,
    TrailFile,
    TrailHead,
    read,
    trail_path,
)
from silofl.checkpoint.trail_verification import verified
from silofl.cli import app
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.crypto.signer import Signer
from silofl.errors import EXIT_FALSE_CLAIM, ConfigError

RUN, ROUNDS = "ab" * 16, 4
KEYS = [Identity.from_private_bytes(bytes([silo]) * 32) for silo in range(3)]
ROSTER = Roster(tuple(Institution(f"silo-{k}", key.public) for k, key in enumerate(KEYS)))
HEAD = TrailHead(ROSTER, of_first_start=False, layout=(("w", (3,)),))
MODELS = [np.array([number, 0.5, 1], np.float32) for number in range(ROUNDS + 1)]
EVERY = (0, 1, 2)
Lines = list[dict[str, Any]]


def signed(
    number: int, previous: str, present: tuple[int, ...] = EVERY, before: tuple[int, ...] = EVERY
) -> SignedEntry:
    decisions = {"excluded": {"1": "it was unlike the others"}} if number == 2 else {}
    model = hashlib.sha256(MODELS[number].data).hexdigest()
    gone = tuple(silo for silo in before if silo not in present)
    back = tuple(silo for silo in present if silo not in before)
    entry = Entry(number, present, gone, back, present, model, "00" * 32, decisions, previous)
    by = {silo: Signer(KEYS[silo], ROSTER).sign(PURPOSE, entry.digest).hex() for silo in present}
    return SignedEntry(entry, by)


def write(path: Path, silo: int = 0, rounds: int = ROUNDS, without: dict[int, int] | None = None) -> Path:
    """A silo's trail, in which some silo is away from a round; its file."""
    file = TrailFile(trail_path(path, silo), RUN, HEAD)
    for number in range(1, rounds + 1):
        away = (without or {}).get(number)
        present = tuple(one for one in range(3) if one != away)
        file.put(
            signed(number, file.newest, present, file.signed[-1].entry.present if file.signed else EVERY)
        )
    return file.path


def edit(file: Path, change: Callable[[Lines], Any]) -> None:
    lines = [json.loads(line) for line in file.read_bytes().splitlines()]
    change(lines)
    file.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))


def test_what_was_put_is_read_again_and_holds(tmp_path: Path) -> None:
    file = write(tmp_path)
    run, head, entries = read(file)
    assert (run, head) == (RUN, HEAD)
    assert [one.entry.round for one in entries] == [1, 2, 3, 4]
    save_file({"w": MODELS[4]}, tmp_path / "model.safetensors")
    found = verified([tmp_path], ROSTER)
    assert (found.pinned, found.model_round) == (True, 4)
    assert "round 2   silo 1 excluded: it was unlike the others" in found.text()
    assert "--roster" in verified([tmp_path]).text()


def test_an_entry_takes_the_place_of_those_behind_its_own(tmp_path: Path) -> None:
    file = TrailFile(trail_path(tmp_path, 0), RUN, HEAD)
    for number in (1, 2, 3):
        file.put(signed(number, file.newest))
    file.put(signed(2, file.signed[0].entry.digest.hex()), 1)
    assert [one.entry.round for one in read(file.path)[2]] == [1, 2]
    assert read(file.path)[2] == file.signed


ROUND_3 = 4  # the index of its line, behind the run's and the keys'


def forge(lines: Lines) -> None:
    lines[ROUND_3]["entry"]["decisions"] = {"excluded": {"0": "no reason"}}


def sign_again(lines: Lines) -> None:
    """As one silo can, which changes an entry and signs that."""
    forge(lines)
    entry = Entry.checked(lines[ROUND_3]["entry"])
    lines[ROUND_3]["signatures"]["2"] = Signer(KEYS[2], ROSTER).sign(PURPOSE, entry.digest).hex()


def swap(lines: Lines) -> None:
    signatures = lines[ROUND_3]["signatures"]
    signatures["0"], signatures["1"] = signatures["1"], signatures["0"]


SPOILED: dict[str, tuple[Callable[[Lines], Any], str]] = {
    "changed": (forge, "the entry of round 3 was changed: no silo's signature fits it"),
    "signed by one": (sign_again, "the entry of round 3 has a signature of silo 0 that does not fit it"),
    "swapped": (swap, "the entry of round 3 has a signature of silo 0 that does not fit it"),
    "unsigned": (
        lambda lines: lines[ROUND_3]["signatures"].pop("1"),
        "the entry of round 3 has no signature of silo 1, which was there",
    ),
    "left out": (
        lambda lines: lines.pop(ROUND_3),
        "the chain is broken before the entry of round 4: it does not name the entry of round 2",
    ),
    "in another order": (
        lambda lines: lines.insert(ROUND_3, lines.pop(ROUND_3 + 1)),
        "the chain is broken before the entry of round 4",
    ),
    "of another run": (
        lambda lines: lines[0].update(run="cd" * 16),
        "the chain is broken before the entry of round 1: it does not name this run, its keys and its",
    ),
    "no entry": (lambda lines: lines[ROUND_3].pop("entry"), "line 5 is no entry of an audit trail"),
    "no round": (
        lambda lines: lines[ROUND_3]["entry"].update(round="3"),
        "line 5 is no entry of an audit trail: the round of an entry is not an integer",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_was_changed_is_one_sentence(tmp_path: Path, how: str) -> None:
    change, sentence = SPOILED[how]
    file = write(tmp_path)
    edit(file, change)
    with pytest.raises(TrailError) as caught:
        verified([tmp_path])
    assert str(caught.value).startswith(f"{file}: {sentence}")


def test_a_trail_whose_end_is_missing_is_seen_by_the_summary_and_by_other_copies(tmp_path: Path) -> None:
    write(tmp_path, 0, rounds=3)
    assert len(verified([tmp_path]).longest.signed) == 3
    (tmp_path / "summary.json").write_text('{"rounds": 4}')
    with pytest.raises(TrailError, match=r"tells of 4 rounds, and the audit trail ends at round 3"):
        verified([tmp_path])
    write(tmp_path, 1)
    assert len(verified([tmp_path]).longest.signed) == 4


def test_two_courses_of_one_run_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a", 0)
    write(tmp_path / "b", 1, without={3: 2})
    with pytest.raises(TrailError, match=r"different entries of round 3, and silos 0, 1 signed both"):
        verified([tmp_path / "a", tmp_path / "b"])


def test_the_last_entry_of_a_silo_that_failed_may_have_been_signed_anew_without_it(tmp_path: Path) -> None:
    write(tmp_path, 2, rounds=3)
    write(tmp_path, 0, without={3: 2, 4: 2})
    assert len(verified([tmp_path]).longest.signed) == 4
    write(tmp_path, 1, rounds=3)  # which was there
    with pytest.raises(TrailError, match="round 3"):
        verified([tmp_path])


def test_a_model_that_was_changed_is_seen(tmp_path: Path) -> None:
    write(tmp_path)
    save_file({"w": MODELS[4] + 1}, tmp_path / "model.safetensors")
    with pytest.raises(TrailError, match=r"is the model of no round that was signed"):
        verified([tmp_path])


def test_other_keys_than_the_rosters_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    others = Roster((Institution("silo-0", Identity.generate().public), *ROSTER.institutions[1:]))
    with pytest.raises(TrailError, match=r"other keys than those of the roster: silo 0 has another one"):
        verified([tmp_path], others)


def test_the_command_says_it_in_one_line_and_by_its_exit_code(tmp_path: Path) -> None:
    file, call = write(tmp_path), CliRunner().invoke
    (tmp_path / "roster.toml").write_text(ROSTER.dumps())
    good = call(app, ["verify", str(tmp_path), "--roster", str(tmp_path / "roster.toml")])
    assert (good.exit_code, good.output.splitlines()[2]) == (0, "  signed    by the keys of the roster")
    edit(file, forge)
    bad = call(app, ["verify", str(tmp_path)])
    assert bad.exit_code == EXIT_FALSE_CLAIM
    assert bad.output == f"silofl: {file}: {SPOILED['changed'][1]}\n"
    shutil.rmtree(file.parent)
    with pytest.raises(ConfigError, match=r"has no audit trail: a run keeps one with audit\.trail = true"):
        call(app, ["verify", str(tmp_path)], catch_exceptions=False)


def test_a_torn_last_line_is_not_there(tmp_path: Path) -> None:
    file = write(tmp_path)
    file.write_bytes(file.read_bytes()[:-40])
    assert [one.entry.round for one in verified([tmp_path]).longest.signed] == [1, 2, 3]
    assert FORMAT == 2
