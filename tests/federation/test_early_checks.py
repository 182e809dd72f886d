"""What is refused before ranks are started, and by ranks before torch is loaded or data is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from torch import nn

from silofl import cli
from silofl import config as configuration
from silofl.comm.protocol import Communicator
from silofl.comm.threads import run_in_threads
from silofl.config import Config
from silofl.crypto.identity import Identity
from silofl.crypto.roster import Institution, Roster
from silofl.errors import MismatchError, SiloflError
from silofl.federation import loop
from silofl.federation.early_checks import Start, refuse_early
from silofl.launcher import restarts
from silofl.tasks import own_files, registry
from silofl.tasks.base import SiloData
from silofl.tasks.readers import source
from tests.federation.threads import Normalized, settings

SILOS = 3
FILES = {"name": "files", "model": "linear", "classes": 2}


def write(path: Path, columns: int = 5, silo: int = 0) -> None:
    x = np.random.default_rng(silo).standard_normal((20, columns)).astype(np.float32)
    np.savez(path, x=x, y=np.arange(20) % 2)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of each silo, keys of each, rosters of all and of too few, and a task."""
    monkeypatch.chdir(tmp_path)
    for silo in range(SILOS):
        write(tmp_path / f"silo-{silo}.npz", silo=silo)
    identities = [Identity.generate() for _ in range(SILOS)]
    institutions = tuple(Institution(f"s{k}", one.public) for k, one in enumerate(identities))
    for silo, identity in enumerate(identities):
        identity.save(tmp_path / f"silo-{silo}.pem")
    (tmp_path / "all.toml").write_text(Roster(institutions).dumps())
    (tmp_path / "two.toml").write_text(Roster(institutions[:2]).dumps())
    (tmp_path / "early_task.py").write_text("class Task: ...\n")
    (tmp_path / "silo-9.parquet").touch()
    (tmp_path / "silo-9.docx").touch()
    return tmp_path


def files(path: str) -> dict[str, Any]:
    return {"task": FILES, "data": {"path": path}}


def keys(identity: str, roster: str) -> dict[str, Any]:
    return {"secure": {"identity": identity, "roster": roster}}


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        files("silo-{silo}.npz") | {"secure": {"protocol": "plain", "bits": 16}},
        "secure.bits = 16 does nothing",
    ),
    ({"secure": {"protocol": "additive", "committee": 5}}, "committee = 5 is more than the 3 silos"),
    ({"secure": {"threshold": 1}}, "secure.threshold = 1 must be more than half of 3 silos"),
    ({"topology": {"name": "gosip"}}, "topology.name = 'gosip' is none of"),
    ({"failure": {"inject": ["kill silo 5 round 1 at collect"]}}, "the silos are 0 to 2: name one of them"),
    (
        {"run": {"dir": "x" * 300}},
        f"run directory {'x' * 100} cannot be read: File name too long; name another",
    ),
    ({"run": {"dir": "old"}}, "old already holds a run: add --resume"),
    (keys("silo-{silo}.pem", "none.toml"), "the roster none.toml cannot be read: No such file"),
    (keys("silo-{silo}.pem", "two.toml"), "two.toml lists 2 institutions and 3 ranks started"),
    (keys("key-{silo}.pem", "all.toml"), "the private key key-0.pem cannot be read: No such file"),
    (keys("silo-{silo}.pem", ""), "belong together: set both, or neither"),
    ({"task": {"name": "digit"}}, "task.name = 'digit' is none of"),
    (files("part-{silo}.npz"), "part-0.npz (silo 0) does not exist: check data.path"),
    (files("silo-{silo}/x.npz"), "silo-0/x.npz (silo 0) does not exist"),
    (files("$NOWHERE/{silo}.npz"), "the environment of silo 0 has no NOWHERE"),
    (files("silo-9.parquet"), "reading silo-9.parquet (silo 0) needs pyarrow, which is not installed"),
    (files("silo-9.docx"), "silo-9.docx (silo 0) is of no known kind"),
    (files("/dev/null"), "/dev/null (silo 0) is neither a file nor a folder"),
    (files(""), "data.path is empty"),
    ({"task": {"name": "files"}, "data": {"path": "silo-{silo}.npz"}}, "needs task.classes"),
    ({"task": {"factory": "nowhere:Task"}}, "there is no module nowhere"),
    ({"task": {"factory": "early_task:Tusk"}}, "early_task has no Tusk: did you mean Task?"),
]


@pytest.mark.parametrize(("tables", "text"), REFUSED, ids=[text for _, text in REFUSED])
def test_launch_and_ranks_refuse_it_before_anything_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, Any], text: str
) -> None:
    monkeypatch.setattr(source, "find_spec", lambda name: None)
    monkeypatch.setattr(
        restarts, "supervise_restarts", lambda *given, **named: pytest.fail("ranks are started")
    )
    monkeypatch.setattr(loop, "build_task", lambda *given: pytest.fail("a task is built"))
    monkeypatch.setattr(own_files, "read", lambda *given: pytest.fail("data is read"))
    (folder / "old").mkdir()
    (folder / "old" / "config.toml").touch()
    config = configuration.parse(tables)
    (folder / "case.toml").write_text(tomli_w.dumps(tables))
    for early in (
        lambda: refuse_early(Start(config, SILOS), range(SILOS)),
        lambda: launch(folder / "case.toml"),
        lambda: raise_first(train(config)),
    ):
        with pytest.raises(SiloflError) as caught:
            early()
        assert caught.value.exit_code in (1, 2)
        assert text in str(caught.value).replace(f"{folder}/", "")


def launch(config: Path) -> None:
    cli.launch(config, n=SILOS, overrides=None, run="", resume=False, restarts=0, dry_run=False)


def train(config: Config, task: Any = None, *, resume: bool = False) -> list[Any]:
    def rank(comm: Communicator) -> Any:
        torch.set_num_threads(1)
        try:
            return loop.train(config, task, comm=comm, resume=resume)
        except SiloflError as error:
            return error

    return run_in_threads(SILOS, rank, timeout_s=60)


def raise_first(ends: list[Any]) -> None:
    assert len({str(end) for end in ends}) == 1
    raise ends[0]


def test_more_silos_than_one_command_starts_are_refused_at_once(folder: Path) -> None:
    with pytest.raises(Exception) as caught:
        cli.app(["launch", "-n", "1000000", "case.toml"], standalone_mode=False)
    assert "less than or equal to 10000" in caught.value.format_message()  # type: ignore[attr-defined]


def test_a_file_that_is_missing_at_one_silo_alone_is_refused_there(folder: Path) -> None:
    (folder / "silo-2.npz").unlink()
    config = configuration.parse(files("silo-{silo}.npz"))
    refuse_early(Start(config, SILOS), [0, 1])
    with pytest.raises(SiloflError, match=r"silo-2.npz \(silo 2\) does not exist"):
        refuse_early(Start(config, SILOS), range(SILOS))
    assert {end.rank for end in train(config)} == {2}


@pytest.mark.covering(0)
@pytest.mark.parametrize(
    ("change", "silos", "text"),
    [
        ({"run": {"seed": 7}}, SILOS, "run.seed is 7 now and was 0"),
        ({"strategy": {"lr": 0.1}}, SILOS, "strategy.lr is 0.1 now and was 0.7"),
        ({}, 2, "holds a run of 3 silos and this one has 2"),
    ],
)
def test_a_resume_that_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], silos: int, text: str
) -> None:
    once = settings(tmp_path / "run", run={"rounds": 1})
    assert all(isinstance(end, dict) for end in train(once, Normalized()))
    changed = settings(tmp_path / "run", **{"run": {"rounds": 2}} | change)
    monkeypatch.setattr(loop, "build_task", lambda *given: pytest.fail("a task is built"))
    with pytest.raises(MismatchError, match=text):
        refuse_early(Start(changed, silos, resume=True, own_task=True), range(silos))
    if silos == SILOS:
        assert {text in str(end) for end in train(changed, Normalized(), resume=True)} == {True}
    refuse_early(Start(settings(tmp_path / "run", run={"rounds": 9}), SILOS, resume=True, own_task=True), [0])


def test_columns_of_files_are_compared_before_a_task_is_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "silo-1.npz", columns=4)
    monkeypatch.setattr(loop, "build_task", lambda *given: pytest.fail("a task is built"))
    ends = train(configuration.parse(files("silo-{silo}.npz")))
    assert {str(end).partition(";")[0] for end in ends} == {
        "the columns of silo 1 are not those of silo 0: it has 4 and not 5, of which not all have a name"
    }


class Tables(Normalized):
    """A task of its own, with one column more at silo 2, whose model must not be made."""

    def data(self, silo: int, silos: int) -> SiloData:
        self.columns = 3 + (silo == 2)
        return super().data(silo, silos)

    def schema(self) -> list[tuple[str, str]]:
        return [(f"c{k}", "numbers") for k in range(self.columns)]

    def model(self) -> nn.Module:
        raise AssertionError("a model is made")


def test_columns_of_a_user_s_task_are_compared_before_a_model_is_made(tmp_path: Path) -> None:
    tasks: dict[int, Tables] = {silo: Tables() for silo in range(SILOS)}

    def rank(comm: Communicator) -> Any:
        try:
            return loop.train(settings(tmp_path), tasks[comm.rank], comm=comm)
        except SiloflError as error:
            return error

    ends = run_in_threads(SILOS, rank, timeout_s=60)
    assert all("the columns of silo 2 are not those of silo 0: it has 'c3'" in str(end) for end in ends)


def test_files_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    before: Callable[..., Any] = own_files.read

    def counted(where: Any, options: Any) -> Any:
        read.append(where.silo)
        return before(where, options)

    monkeypatch.setattr(own_files, "read", counted)
    config = configuration.parse(files("silo-{silo}.npz") | {"run": {"rounds": 1, "display": "none"}})
    assert all(isinstance(end, dict) for end in train(config))
    assert sorted(read) == [0, 1, 2]
    assert registry.build(config).data(0, SILOS).train  # one that is built alone reads by itself
    assert sorted(read) == [0, 0, 1, 2]
