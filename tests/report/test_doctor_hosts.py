"""`silofl doctor` over hosts: each by itself, what differs between them, and its JSON."""

from __future__ import annotations

import base64
import json
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from silofl.cli import app
from silofl.errors import ConfigError
from silofl.launcher.hosts import every_host
from silofl.launcher.mpi_info import MpiInfo
from silofl.report import doctor_hosts, doctor_report
from silofl.report.doctor import Finding
from silofl.report.doctor_report import HostReport, Report, differences
from tests.conftest import ROOT
from tests.on_hosts import silofl_there

VERSIONS = {"silofl": "0.1.0", "MPI": "Open MPI 5.0.11", "torch": "2.13.0", "masks by aes": "path vaes256"}
MPIRUN = """\
#!/bin/bash
for word in "$@"; do [ "$before" = --host ] && hosts=$word; before=$word; done
cd "$(dirname "$0")"
case "$hosts" in
  *,*) [ -e apart ] || echo "silofl-doctor-met $(tr , '\\n' <<< "$hosts" | wc -l)" ;;
  mute:1) exec sleep 100 ;;
  none:1) printf -- '-----\\nssh: no such host\\n' >&2; exit 3 ;;
  *) echo noise; cat "${hosts%:1}" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an mpirun whose hosts say what their files in it hold."""
    (tmp_path / "mpirun").write_text(MPIRUN)
    (tmp_path / "mpirun").chmod(0o755)
    info = MpiInfo("openmpi", "Open MPI", "5.0.11", None, (str(tmp_path / "mpirun"),), True, None, 2)
    monkeypatch.setattr(doctor_hosts, "mpi_info", lambda: info)
    return tmp_path


def host(folder: Path, name: str, *, ahead_s: float = 0.0, **versions: str) -> None:
    found = {"what": "silofl", "mark": "ok", "detail": "0.1.0", "advice": ""}
    report = {"host": "x", "hostname": f"{name}.site", "versions": VERSIONS | versions, "findings": [found]}
    told = zlib.compress(json.dumps({"time": time.time() + ahead_s, "report": report}).encode())
    (folder / name).write_text(f"silofl-doctor {base64.b64encode(told).decode()}\n")


def test_hosts_that_are_alike_have_no_gap_between_them(folder: Path) -> None:
    host(folder, "a")
    host(folder, "b")
    report = doctor_hosts.examine_hosts(["a", "b"], 30.0)
    assert [(one.host, one.hostname, one.answered) for one in report.hosts] == [
        ("a", "a.site", True),
        ("b", "b.site", True),
    ]
    assert [one.mark for one in report.between] == ["ok", "ok"]
    assert report.exit_code == 0


def test_what_differs_is_a_gap_that_names_hosts(folder: Path) -> None:
    host(folder, "a")
    host(folder, "b", ahead_s=1000.0, torch="2.12.0")
    host(folder, "c", **{"masks by aes": "path ttables"})
    between = {one.what: one for one in doctor_hosts.examine_hosts(["a", "b", "c"], 30.0).between}
    assert between["torch"].mark == between["masks by aes"].mark == between["clock"].mark == "gap"
    assert between["torch"].detail == "2.13.0 on a and c, 2.12.0 on b"
    assert "path ttables on c" in between["masks by aes"].detail
    assert between["clock"].detail.startswith("that of b is about ")
    assert between["clock"].detail.endswith(" s ahead of this host's")
    assert between["MPI between hosts"].mark == "ok"


def test_a_host_that_does_not_answer_is_named_and_takes_no_other_with_it(folder: Path) -> None:
    host(folder, "a")
    report = doctor_hosts.examine_hosts(["a", "none", "mute"], 3.0)
    assert [one.answered for one in report.hosts] == [True, False, False]
    assert report.hosts[1].findings[0].detail == "mpirun ended with 3: ssh: no such host"
    assert report.hosts[2].findings[0].detail == "no answer within 3 s"
    assert report.exit_code == 2
    assert "MPI between hosts" not in [one.what for one in report.between]  # one alone has nobody to meet


def test_hosts_whose_ranks_do_not_meet(folder: Path) -> None:
    host(folder, "a")
    host(folder, "b")
    (folder / "apart").touch()
    report = doctor_hosts.examine_hosts(["a", "b"], 30.0)
    assert report.between[-1].what == "MPI between hosts"
    assert report.between[-1].mark == "missing"
    assert "docs/across-sites.md" in report.between[-1].advice
    assert report.exit_code == 2


def test_a_host_tells_its_report_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor_report, "examine", lambda: [Finding("x", "gap", "[y]", "z")])
    monkeypatch.setattr(doctor_report, "versions", lambda: VERSIONS)
    doctor_hosts.tell_report()
    told = capsys.readouterr().out
    assert told.count("\n") == 1
    assert len(told) < 4096  # what a pipe takes in one piece
    (folder / "a").write_text(told)
    report = doctor_hosts.examine_hosts(["a"], 30.0).hosts[0]
    assert report.findings == [Finding("x", "gap", "[y]", "z")]
    assert report.versions == VERSIONS


def test_the_json_has_the_keys_that_are_documented() -> None:
    table = Report([HostReport("a", [Finding("x", "gap", "y")])], differences([])).to_json()
    docs = (ROOT / "docs/across-sites.md").read_text()
    assert table["format"] == "silofl doctor 1"
    for keys in (table, table["hosts"][0], table["hosts"][0]["findings"][0]):
        for key in keys:
            assert f"`{key}`" in docs
    assert set(table) == {"format", "hosts", "between", "exit_code"}
    own = {"host", "answered", "hostname", "clock_s", "versions", "findings"}
    assert set(table["hosts"][0]) == own
    assert set(table["hosts"][0]["findings"][0]) == {"what", "mark", "detail", "advice"}


@pytest.mark.parametrize(("mark", "code"), [("gap", 0), ("missing", 2)])
def test_the_command_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: Any, code: int
) -> None:
    monkeypatch.setattr(doctor_report, "examine", lambda: [Finding("x", mark, "y")])
    monkeypatch.setattr(doctor_report, "versions", lambda: VERSIONS)
    printed = CliRunner().invoke(app, ["doctor", "--json", "-"])
    written = CliRunner().invoke(app, ["doctor", "--json", str(tmp_path / "found.json")])
    assert printed.exit_code == written.exit_code == code
    table = json.loads(printed.stdout)
    assert table == json.loads((tmp_path / "found.json").read_text())
    assert table["exit_code"] == code
    assert table["hosts"][0]["versions"] == VERSIONS
    assert written.stdout.split() == [mark, "x", "y"]


def test_hosts_are_named_by_one_option(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("# mine\na slots=2\n\nb:1 # other\na\n")
    assert every_host(None, tmp_path / "hosts") == every_host("a:2,b", None) == ["a", "b"]
    with pytest.raises(ConfigError, match="give one of them"):
        every_host("a", tmp_path / "hosts")
    with pytest.raises(ConfigError, match="no host"):
        every_host("a,-x", None)


@pytest.mark.long
@pytest.mark.timeout(300)
def test_two_hosts_are_examined_and_meet(hosts: Any, tmp_path: Path) -> None:
    """Through mpirun, on hosts with a network of their own; a third is not there."""
    first, second = hosts.ADDRESSES[:2]
    with hosts.two_hosts(1000.0) as both:
        named = ["--host", f"{first},{second},10.99.0.9"]
        done = silofl_there(hosts, both, "doctor", *named, "--json", "-", folder=tmp_path)
    table = json.loads(done.stdout)
    assert done.returncode == table["exit_code"] == 2, done.stderr
    assert [one["answered"] for one in table["hosts"]] == [True, True, False]
    assert [one["hostname"] for one in table["hosts"]] == [*both.names, ""]
    assert "no host 10.99.0.9" in table["hosts"][2]["findings"][0]["detail"]
    between = {one["what"]: one["mark"] for one in table["between"]}
    assert between == {"versions and clocks": "ok", "MPI between hosts": "ok"}
