"""Hosts that a user names, which of them answer, and where ranks go when one is lost."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from silofl.errors import ConfigError, StoppedError
from silofl.launcher import cluster, host_probe
from silofl.launcher.cluster import Cluster, notice_silence
from silofl.launcher.hosts import Host, is_local, named_hosts, without

AGENT = """#!/usr/bin/env bash
host=$1; shift
case $host in
  lost) sleep 60 ;;
  refused) exit 255 ;;
  bare) exec bash -c "${*//$PROGRAM/\\/nowhere}" ;;
  *) exec bash -c "$*" ;;
esac
"""


@pytest.mark.parametrize(
    ("option", "lines", "ranks", "expected"),
    [
        ("a:2,b:2", None, 4, "a:2 b:2"),
        ("a,b", None, 2, "a:1 b:1"),
        ("a:2,b:4,c:1", None, 3, "a:2 b:1"),
        ("a:1,b:1,a:1", None, 3, "a:2 b:1"),
        (None, "# ours\na slots=2  # the big one\n\nb.c-d slots = 2\n", 4, "a:2 b.c-d:2"),
        (None, "10.99.0.1:3\nb", 4, "10.99.0.1:3 b:1"),
        (None, None, 4, ""),
    ],
)
def test_hosts_are_filled_in_the_order_given(
    tmp_path: Path, option: str | None, lines: str | None, ranks: int, expected: str
) -> None:
    file = None if lines is None else tmp_path / "hosts"
    if file is not None:
        file.write_text(lines or "")
    assert " ".join(map(str, named_hosts(option, file, ranks))) == expected


@pytest.mark.parametrize(
    ("option", "lines", "sentence"),
    [
        ("a:2,b:1", None, "--host has 3 slots for 4 silos"),
        ("a:2,", None, "is no host"),
        ("a:0,b:4", None, "is no host"),
        ("a:two", None, "is no host"),
        ("-x:4", None, "is no host"),
        ("a:4;b", None, "is no host"),
        (None, "a slots=2\nb slots=\n", "line 2 of "),
        (None, "# none\n", "names no host"),
        (None, None, "cannot be read: No such file"),
        ("a:4", "a slots=4\n", "give one of them"),
    ],
)
def test_what_is_no_list_of_hosts_is_refused_in_one_sentence(
    tmp_path: Path, option: str | None, lines: str | None, sentence: str
) -> None:
    file = tmp_path / "hosts" if option is None or lines is not None else None
    if lines is not None:
        (tmp_path / "hosts").write_text(lines)
    with pytest.raises(ConfigError) as refused:
        named_hosts(option, file, 4)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("lost", "left"),
    [
        ("", "a:2 b:3 c:1"),
        ("b", "a:4 c:2"),
        ("a", "b:5 c:1"),
        ("c", "a:2 b:4"),
        ("a c", "b:6"),
        ("a b c", ""),
    ],
)
def test_ranks_of_a_lost_host_go_to_its_neighbours_and_all_others_stay(lost: str, left: str) -> None:
    hosts = [Host("a", 2), Host("b", 3), Host("c", 1)]
    found = without(hosts, lost.split())
    assert " ".join(map(str, found)) == left
    before = [host.name for host in hosts for _ in range(host.slots)]
    after = [host.name for host in found for _ in range(host.slots)]
    kept = [(one, now) for one, now in zip(before, after, strict=False) if one not in lost.split()]
    assert all(one == now for one, now in kept)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An executable that hosts have, where the agent above is the way to them."""
    agent, program = tmp_path / "agent.sh", tmp_path / "program"
    for path, text in ((agent, AGENT), (program, "#!/bin/sh\n")):
        path.write_text(text)
        path.chmod(0o700)
    monkeypatch.setenv("PROGRAM", str(program))
    monkeypatch.setenv("PRTE_MCA_plm_ssh_agent", str(agent))
    monkeypatch.setattr(cluster, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(cluster, "LOST_TIMEOUT_S", 1.0)
    return str(program)


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        ("a lost b", r"^host lost does not answer: .* `ssh lost true`$"),
        ("lost a refused", r"^hosts lost, refused do not answer: "),
        ("a bare", r"^host bare does not have .*program: silofl has to be installed at the same path"),
    ],
)
def test_a_host_that_cannot_run_the_program_is_named_before_the_start(
    program: str, names: str, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Cluster([Host(name, 1) for name in names.split()], program, lambda left: []).refuse_silent()


def test_a_host_that_is_named_twice_is_asked_once(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, ask = list[str](), host_probe._ask
    monkeypatch.setattr(host_probe, "_ask", lambda line: asked.append(line[-2]) or ask(line))  # type: ignore[func-returns-value]
    assert host_probe.probe(["a", "b", "a"], program, os.environ, 2.0) == host_probe.Answers([], [])
    assert asked == ["a", "b"]


def test_a_restart_has_all_silos_on_the_hosts_that_answer(
    program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(*hosts: Host) -> list[str]:
        return Cluster(hosts, program, lambda left: list(map(str, left))).command()

    own = socket.gethostname()
    assert command(Host("a", 2), Host("b", 2)) == ["a:2", "b:2"]
    assert capfd.readouterr().err == ""
    assert command(Host("a", 2), Host("lost", 2), Host(own, 1)) == ["a:3", f"{own}:2"]
    assert "host lost does not answer: all silos run on a:3" in capfd.readouterr().err
    assert command(Host(own, 2), Host("lost", 2)) == ["localhost:4"]
    with pytest.raises(StoppedError, match="no host answers"):
        command(Host("refused", 2), Host("lost", 2))


def test_bad_input_without_a_host_may_be_good_on_it(program: str, capfd: pytest.CaptureFixture[str]) -> None:
    job = Cluster([Host("a", 2), Host("refused", 2)], program, lambda left: list(map(str, left)))
    assert job.exit_code(2) == 2
    job.command()
    assert [job.exit_code(code) for code in (0, 1, 2, 75)] == [0, 1, 75, 75]
    assert "host refused does not answer, and its silos may have files" in capfd.readouterr().err


def test_silos_whose_data_is_on_their_hosts_do_not_move(program: str) -> None:
    def command(*hosts: Host) -> list[str]:
        return Cluster(hosts, program, lambda left: list(map(str, left)), movable=False).command()

    assert command(Host("a", 1), Host("b", 2), Host("a", 1)) == ["a:1", "b:2", "a:1"]
    with pytest.raises(StoppedError, match="host lost does not answer, where institutions have their data"):
        command(Host("a", 1), Host("lost", 1))


def test_silos_of_a_lost_host_that_do_not_move_are_left_out(
    program: str, capfd: pytest.CaptureFixture[str]
) -> None:
    def command(*hosts: Host) -> list[str]:
        def line(left: Sequence[Host], without: Sequence[int] = ()) -> list[str]:
            return [*map(str, left), str(list(without))]

        return Cluster(hosts, program, line, movable=False, line_without=line).command()

    own = socket.gethostname()
    assert command(Host("a", 1), Host("b", 2), Host("a", 1)) == ["a:1", "b:2", "a:1", "[]"]
    assert command(Host("a", 1), Host("lost", 2), Host("b", 1)) == ["a:1", "a:2", "b:1", "[1, 2]"]
    assert "host lost does not answer: silo 1, 2 is to be left out" in capfd.readouterr().err
    assert command(Host("lost", 1), Host("b", 1), Host("lost", 1)) == ["b:1", "b:1", "b:1", "[0, 2]"]
    assert command(Host(own, 1), Host("lost", 1)) == ["localhost:2", "[1]"]
    with pytest.raises(StoppedError, match="no host answers"):
        command(Host("refused", 2), Host("lost", 2))


def test_the_way_to_hosts_is_open_mpis_own(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    assert host_probe.agent({"PRTE_MCA_plm_ssh_agent": "/no/such : bash -l"}) == ["bash", "-l"]
    with pytest.raises(ConfigError, match="is no command: No closing quotation"):
        host_probe.agent({"PRTE_MCA_plm_ssh_agent": "ssh -o 'x"})
    with pytest.raises(ConfigError, match="ranks on other hosts are started by it"):
        host_probe.agent({"PRTE_MCA_plm_ssh_agent": "/no/such"})
    (Path(program).parent / "ssh").symlink_to(program)
    monkeypatch.setenv("PATH", str(Path(program).parent), prepend=os.pathsep)
    assert host_probe.agent({})[:3] == ["ssh", "-o", "BatchMode=yes"]


def test_this_machine_is_itself() -> None:
    assert is_local("localhost")
    assert is_local("127.0.0.1")
    assert is_local(socket.gethostname())
    assert not is_local("192.0.2.1")  # RFC 5737: for documentation


def test_daemons_notice_silence_after_the_time_given() -> None:
    environ = {"PRTE_MCA_oob_tcp_keepalive_probes": "9"}
    notice_silence(300.0, environ)
    assert environ == {
        "PRTE_MCA_oob_tcp_keepalive_time": "150",
        "PRTE_MCA_oob_tcp_keepalive_intvl": "100",
        "PRTE_MCA_oob_tcp_keepalive_probes": "9",
    }
