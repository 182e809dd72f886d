"""Audit trails: every change of a file is one sentence, and copies are held to one another."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
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


def by_one(number: int, previous: str, **changed: Any) -> SignedEntry:
    """An entry that silo 2 writes and signs alone."""
    fields = {"present": (2,), "departed": (0, 1), "returned": (), "members": (2,)} | changed
    model = hashlib.sha256(MODELS[0].data).hexdigest()
    entry = Entry(number, **fields, model=model, config="00" * 32, decisions={}, previous=previous)
    return SignedEntry(entry, {2: Signer(KEYS[2], ROSTER).sign(PURPOSE, entry.digest).hex()})


@pytest.mark.parametrize("kept", [0, 2, ROUNDS])
def test_no_silo_alone_writes_an_entry(tmp_path: Path, kept: int) -> None:
    """In the place of others, or behind them; beside honest copies, or with none of them."""
    for silo in range(3):
        write(tmp_path, silo)
    run, head, told = read(trail_path(tmp_path, 2))
    file = TrailFile(trail_path(tmp_path, 2), run, head, told[:kept])
    file.put(by_one(kept + 1, file.newest))
    said = (
        f"{file.path}: the entry of round {kept + 1} is one of 1 of 3 silos, and no fewer than 2 can decide"
    )
    for copies in (3, 1):
        with pytest.raises(TrailError) as caught:
            verified([tmp_path])
        assert str(caught.value).startswith(said), copies
        for silo in (0, 1):
            shutil.rmtree(tmp_path / f"silo-000{silo}", ignore_errors=True)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"departed": ()}, "is of other silos than those before it and those it names as come or gone"),
        ({"returned": (0,)}, "is of other silos than"),
        ({"members": (0, 1, 2, 3)}, "names other silos than the run has"),
        ({"config": "11" * 32}, "is of another configuration than those before it"),
        ({"round": 4}, "follows that of round 2: those between are missing"),
    ],
    ids=str,
)
def test_what_a_majority_signs_follows_from_the_entry_before(tmp_path: Path, changed: Any, said: str) -> None:
    file = TrailFile(trail_path(tmp_path, 0), RUN, HEAD)
    for number in (1, 2):
        file.put(signed(number, file.newest))
    entry = replace(signed(3, file.newest, (0, 1)).entry, **changed)
    signatures = {silo: Signer(KEYS[silo], ROSTER).sign(PURPOSE, entry.digest).hex() for silo in (0, 1)}
    file.put(SignedEntry(entry, signatures))
    with pytest.raises(TrailError, match=f"the entry of round [34] {said}"):
        verified([tmp_path])


def test_rounds_that_come_again_are_told_and_silos_whose_copies_are_missing(tmp_path: Path) -> None:
    file = TrailFile(trail_path(tmp_path, 1), RUN, HEAD)
    for number in (1, 2, 3):
        file.put(signed(number, file.newest))
    file.put(signed(2, file.newest, (0, 1)))
    lines = verified([tmp_path]).text().splitlines()
    assert lines[0].endswith("2 round(s), copies of 1 of 3 silos, none of silos 0, 2")
    assert [line for line in lines if "signers" in line] == [
        "  signers   rounds 1 to 3: silos 0, 1, 2",
        "  signers   round 2 again, after a resume: silos 0, 1",
    ]
    assert "fewer than 2 of these silos: so many that collude can write all" in lines[3]
    assert "what was cut off all of these copies is not seen" in lines[4]


HEADS = {
    "layout": [["w", [4]]],
    "no layout": [],
    "keys": "nonsense",
    "of_first_start": True,
    "dtype": "float64",
    "nonsense": "nonsense",
}


@pytest.mark.parametrize("how", HEADS)
def test_the_head_is_what_the_first_entry_names(tmp_path: Path, how: str) -> None:
    key = {"no layout": "layout", "nonsense": "dtype"}.get(how, how)
    edit(write(tmp_path), lambda lines: lines[1].update({key: HEADS[how]}))
    with pytest.raises(TrailError, match=r"chain is broken before the entry of round 1|its second line does"):
        verified([tmp_path])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"v": MODELS[4]}, "lacks w, which was signed"),
        ({"w": MODELS[4].reshape(3, 1)}, "has w of another shape or type than was signed"),
        ({"w": MODELS[4].astype(np.float64)}, "has w of another shape or type"),
    ],
    ids=["name", "shape", "type"],
)
def test_a_model_of_other_tensors_is_refused(tmp_path: Path, arrays: Any, said: str) -> None:
    write(tmp_path)
    save_file(arrays, tmp_path / "model.safetensors")
    with pytest.raises(TrailError, match=said):
        verified([tmp_path])


def test_what_is_said_of_a_model(tmp_path: Path) -> None:
    write(tmp_path)
    assert "  model     not compared: there is no model.safetensors\n" in verified([tmp_path]).text()
    save_file({"w": MODELS[4], "z": MODELS[0]}, tmp_path / "model.safetensors")
    assert "is the model of round 4; nobody has signed what else it has: z" in verified([tmp_path]).text()
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 40)
    with pytest.raises(TrailError, match="cannot be read"):
        verified([tmp_path])


NO_TRAILS: dict[str, Callable[[bytes], bytes]] = {
    "NaN": lambda text: text.replace(b'"decisions": {}', b'"decisions": {"norm": NaN}', 1),
    "1e999": lambda text: text.replace(b'"decisions": {}', b'"decisions": {"norm": 1e999}', 1),
    "long": lambda text: text.replace(b'"round": 1,', b'"round": ' + b"9" * 5000 + b",", 1),
    "deep": lambda text: text.splitlines()[0] + b"\n" + b"[" * 100_000 + b"\n",
    "nested": lambda text: text.replace(b"{}", b'{"a":' * 900 + b"1" + b"}" * 900, 1),
    "empty": lambda text: b"",
    "binary": lambda text: b"\0\1\xff" + text,
    "head alone": lambda text: text.splitlines()[0] + b"\n",
    "signer": lambda text: text.replace(b'"signatures": {"0"', b'"signatures": {"x"', 1),
    "zero": lambda text: text.replace(b'"signatures": {"0"', b'"signatures": {"00"', 1),
    "more": lambda text: text.replace(b'"signatures": {', b'"signatures": {"9": "' + b"0" * 128 + b'", ', 1),
    "format": lambda text: text.replace(b'"format": 2', b'"format": 1', 1),
    "middle": lambda text: text.replace(b"\n", b"\n{bad\n", 3),
}


@pytest.mark.parametrize("how", NO_TRAILS)
def test_a_file_that_is_no_trail_is_one_sentence_and_its_exit_code(tmp_path: Path, how: str) -> None:
    write(tmp_path, 0)
    file = write(tmp_path, 1)
    file.write_bytes(NO_TRAILS[how](file.read_bytes()))
    found = CliRunner().invoke(app, ["verify", str(tmp_path)])
    assert found.exit_code == EXIT_FALSE_CLAIM
    assert found.output.startswith(f"silofl: {file}")
    assert len(found.output.splitlines()) == 1
