"""What another silo states about checkpoints is checked before it is used: names above all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from silofl.checkpoint import buddies as buddies_module
from silofl.checkpoint.buddies import Buddies
from silofl.checkpoint.commit_message import CommitMessage
from silofl.checkpoint.directory import CheckpointDirectory
from silofl.checkpoint.manifest import FORMAT, FileEntry, Manifest, parse
from silofl.checkpoint.names import state_name
from silofl.checkpoint.store import CheckpointStore
from silofl.checkpoint.trust import Trust
from silofl.crypto.secret import Secret
from silofl.errors import CheckpointError, MismatchError, ProtocolError
from tests.checkpoint.run_of_silos import IDENTITY, RUN, Silos, same, state_of

NAMES = [
    *("../../victim", "../round-000001/silo-0000.safetensors", "/etc/passwd", "", ".", ".."),
    *("silo-0001.safetensors", "silo-0000.sealed", "manifest.json", "silo-0000.safetensors/x"),
    *("silo-0000.0.safetensors", "silo-0000.01.safetensors", "silo-0000.-1.safetensors"),
    *("silo-0000.safetensors\n", "silo-0000.safetensors\0", "Silo-0000.safetensors", "silo-0.safetensors"),
    *("silo-0000.\N{ARABIC-INDIC DIGIT ONE}.safetensors", ".silo-0000.safetensors.tmp", None, 3, ["x"]),
]


def entry(silo: int, **more: Any) -> FileEntry:
    return replace(FileEntry(state_name(silo, 0), "ab" * 32, 100), **more)


def manifest(**more: Any) -> Manifest:
    whole = Manifest(RUN, 4, 3, IDENTITY, {silo: entry(silo) for silo in range(3)})
    return replace(whole, **more)


def written(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """A manifest that was changed, with a SHA-256 that fits."""
    content = json.loads(manifest().encode())
    del content["sha256"]
    change(content)
    sha256 = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return json.dumps(content | {"sha256": sha256}, indent=1, sort_keys=True).encode() + b"\n"


def nested(depth: int) -> bytes:
    return b'{"format": 3, "identity": ' + b"[" * depth + b"]" * depth + b"}"


def test_a_manifest_is_read_as_it_was_written() -> None:
    signed = manifest(signatures={1: "cd" * 64})
    assert parse(signed.encode()) == signed
    assert parse(written(lambda content: None)) == manifest()
    assert signed.digest == manifest().digest != manifest(round=5).digest != manifest(run="6" * 32).digest


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_no_name_but_the_silos_own_is_taken_from_a_manifest(name: Any) -> None:
    with pytest.raises(CheckpointError, match="the file that it names for silo 0 is none of silo 0's"):
        parse(written(lambda content: content["files"]["0"].update(name=name)))


@pytest.mark.parametrize(
    "name", ["silo-0000.safetensors", "silo-0000.1.safetensors", "silo-0000.23.safetensors"]
)
def test_names_of_further_attempts_are_taken(name: str) -> None:
    assert parse(written(lambda content: content["files"]["0"].update(name=name))).files[0].name == name


SPOILED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "digits": (lambda c: c["files"]["1"].update(sha256="AB" * 32), "the SHA-256 of silo 1's file"),
    "short digits": (lambda c: c["files"]["1"].update(sha256="ab" * 31), "the SHA-256 of silo 1's file"),
    "no digits": (lambda c: c["files"]["1"].update(sha256=7), "the SHA-256 of silo 1's file"),
    "negative length": (lambda c: c["files"]["2"].update(bytes=-1), "the length of silo 2's file"),
    "fraction": (lambda c: c["files"]["2"].update(bytes=1.5), "the length of silo 2's file"),
    "truth": (lambda c: c["files"]["2"].update(bytes=True), "the length of silo 2's file"),
    "endless": (lambda c: c["files"]["2"].update(bytes=1 << 60), "the length of silo 2's file"),
    "one more field": (lambda c: c["files"]["2"].update(more=1), "the entry of silo 2 has other fields"),
    "one field less": (lambda c: c["files"]["2"].pop("bytes"), "the entry of silo 2 has other fields"),
    "no table": (lambda c: c["files"].update({"2": [1]}), "the entry of silo 2 is not a table"),
    "unknown silo": (lambda c: c["files"].update({"3": c["files"]["2"]}), "not of silos 0 to 2"),
    "negative silo": (lambda c: c["files"].update({"-1": c["files"]["2"]}), "not of silos 0 to 2"),
    "silo twice": (lambda c: c["files"].update({"01": c["files"]["1"]}), "not of silos 0 to 2"),
    "files in a list": (lambda c: c.update(files=[]), "its files is not a table"),
    "no files": (lambda c: c.update(files={}, members=[]), "its members are not those"),
    "other members": (lambda c: c.update(members=[0, 1]), "its members are not those"),
    "no silos": (lambda c: c.update(silos=0), "its number of silos"),
    "silos without end": (lambda c: c.update(silos=1 << 40), "its number of silos"),
    "round -1": (lambda c: c.update(round=-1), "its round"),
    "round of text": (lambda c: c.update(round="4/../../x"), "its round"),
    "run": (lambda c: c.update(run="../x"), "its run id"),
    "identity": (lambda c: c.update(identity=[1]), "what a resume must match"),
    "signature": (lambda c: c.update(signatures={"0": "ab"}), "silo 0's signature"),
    "stranger": (
        lambda c: c.update(files={"0": c["files"]["0"]}, members=[0], signatures={"1": ""}),
        "others",
    ),
    "more": (lambda c: c.update(more=1), "it has more in it than a manifest"),
    "missing": (lambda c: c.pop("signatures"), "it is not a manifest"),
}


@pytest.mark.parametrize(("change", "reason"), SPOILED.values(), ids=SPOILED)
def test_a_field_that_no_manifest_has_is_one_refusal(
    change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        parse(written(change))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"7", b"null", nested(100_000), b'{"format": "x"}'])
def test_bytes_that_are_no_manifest_are_one_refusal(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"it is not a manifest|its SHA-256"):
        parse(data)


def test_a_manifest_of_an_older_format_is_refused() -> None:
    with pytest.raises(
        MismatchError, match=f"of format {FORMAT - 1} and this silofl reads {FORMAT}: resume it"
    ):
        parse(written(lambda content: content.update(format=FORMAT - 1)))


def with_buddies(path: Path) -> Silos:
    return Silos(path, 3, shared=False, buddy_key=lambda silo: Secret(bytes([silo]) * 32))


def test_a_peers_manifest_makes_no_silo_write_outside_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Silo 1 keeps silo 0's copy, which opens, and says that it belongs elsewhere."""
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1, 2)
    (silos.folder(0) / "victim").write_text("important")
    manifests = CheckpointDirectory.manifests

    def lie(directory: CheckpointDirectory) -> Any:
        intact, damaged = manifests(directory)
        if directory.silo != 1:
            return [], damaged  # a new disk: the liar's is the only manifest
        files = intact[0].files | {0: replace(intact[0].files[0], name="../victim")}
        return [replace(intact[0], files=files)], damaged

    monkeypatch.setattr(CheckpointDirectory, "manifests", lie)
    with pytest.raises(
        ProtocolError, match="silo 1's message about checkpoints is refused: the file that"
    ) as caught:
        silos.latest()
    assert caught.value.sender == 1
    assert (silos.folder(0) / "victim").read_text() == "important"
    monkeypatch.undo()
    assert all(found and found.round == 2 for found in silos.latest().values())


@pytest.mark.parametrize(
    "told",
    [
        *({"intact": 7, "damaged": []}, {"intact": [[1]], "damaged": []}, {"intact": [], "damaged": ["x"]}),
        *({"intact": [["../x", "ab" * 32]], "damaged": []}, {"intact": [[1, "x"]], "damaged": []}),
        *({"intact": [[1, "ab" * 32]], "damaged": []}, {}, 7, None, "x"),
    ],
    ids=repr,
)
def test_a_list_of_manifests_that_is_none_is_one_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    silos = Silos(tmp_path, 3, shared=False)
    silos.commit(silos.everybody, 1)
    gather = CheckpointStore.latest.__globals__["gather_manifests"].__globals__["allgather_object"]

    def lie(comm: Any, value: Any, error: Any = None) -> Any:
        return gather(comm, told if comm.rank == 2 else value, error)

    monkeypatch.setattr("silofl.checkpoint.catalogue.allgather_object", lie)
    with pytest.raises(ProtocolError, match="silo 2's message about checkpoints is refused"):
        silos.latest()


def told_by(silo: int, change: Callable[[dict[str, Any]], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let one silo's messages at commits be others."""
    gather = CheckpointStore.commit_pending.__globals__["allgather_object"]

    def lie(comm: Any, value: Any, error: Any = None) -> Any:
        if comm.rank == silo and isinstance(value, dict) and "note" in value:
            value = json.loads(json.dumps(value))
            change(value)
        return gather(comm, value, error)

    monkeypatch.setattr("silofl.checkpoint.store.allgather_object", lie)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        *((lambda m, n=n: m["entry"].update(name=n), "the file that it names for silo 1") for n in NAMES[:3]),
        (lambda m: m["entry"].update(bytes=-1), "the length"),
        (lambda m: m["entry"].update(sha256=None), "the SHA-256"),
        (lambda m: m.pop("entry"), "the entry of silo 1 is not a table"),
        (lambda m: m.update(kept="all"), "what it keeps is not a list"),
        (lambda m: m.update(kept=["../x"]), "a round that it keeps is not"),
    ],
)
def test_a_commit_that_names_what_it_must_not_is_one_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[dict[str, Any]], Any], reason: str
) -> None:
    silos = Silos(tmp_path, 3, shared=False)
    silos.commit(silos.everybody, 1)
    told_by(1, lambda message: change(message) if "entry" in message else None, monkeypatch)

    def work(store: CheckpointStore, silo: int) -> None:
        store.begin(2, state_of(silo, 2))
        with pytest.raises(ProtocolError, match=f"silo 1's message about checkpoints is refused: {reason}"):
            store.commit_pending()

    silos.together(silos.everybody, work)
    monkeypatch.undo()
    assert all(found and found.round == 1 for found in silos.latest().values())


def test_no_leader_takes_the_newest_rounds_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silos = Silos(tmp_path, 3, shared=False)
    told_by(0, lambda message: message.update(kept=[1]) if "kept" in message else None, monkeypatch)
    silos.commit(silos.everybody, 1, 2, 3, 4, 5)
    assert {4, 5} <= set(silos.committed(1))


@pytest.mark.parametrize(("what", "lie"), [("_holds", "yes"), ("sealed_bytes", -1), ("sealed_bytes", "x")])
def test_a_buddys_message_that_is_none_is_one_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, lie: Any
) -> None:
    silos = with_buddies(tmp_path)
    silos.commit(silos.everybody, 1)
    shutil.rmtree(silos.folder(0))
    where: Any = Buddies if what == "_holds" else buddies_module
    monkeypatch.setattr(where, what, lambda *of: lie)
    with pytest.raises(ProtocolError, match="silo 0's message about checkpoints is refused"):
        silos.latest()


def test_a_sealed_copy_of_another_run_does_not_open(tmp_path: Path) -> None:
    """Of the same silo, round, key and length, and even of the same state."""
    for name, run in (("a", RUN), ("b", "6" * 32)):
        silos = with_buddies(tmp_path / name)
        silos.trust = lambda silo, run=run: Trust(run)  # type: ignore[misc]
        silos.commit(silos.everybody, 1, 2)
    kept = "silo-1/checkpoints/round-000002/silo-0000.sealed"
    shutil.copy(tmp_path / "a" / kept, tmp_path / "b" / kept)
    (silos.folder(0) / "round-000002/silo-0000.safetensors").unlink()
    for silo, found in silos.latest().items():
        assert found is not None
        assert (found.round, same(found.state, state_of(silo, 1))) == (1, True)
        assert "does not open: it was altered, is another silo's, round's or run's" in found.notices[0]


def test_a_round_that_is_a_link_is_none(tmp_path: Path) -> None:
    silos = Silos(tmp_path, 1, shared=False)
    silos.commit([0], 1, 2)
    elsewhere = tmp_path / "elsewhere"
    (silos.folder(0) / "round-000001").rename(elsewhere)
    (silos.folder(0) / "round-000001").symlink_to(elsewhere)
    silos.commit([0], 3, 4)
    assert (elsewhere / "manifest.json").exists(), "a round was pruned through a link"
    assert CheckpointDirectory(silos.folder(0), 0).rounds() == [4, 3]


def test_a_note_travels_as_it_is() -> None:
    message = CommitMessage({"a": [1, None]}, entry(1), [3, 4], True)
    assert CommitMessage.checked(json.loads(json.dumps(message.to_json())), 1, committing=True) == message
