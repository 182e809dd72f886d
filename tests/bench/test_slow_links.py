"""`benchmarks/slow_links.py`: ranks on two hosts, whose link is as slow as it is said to be."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__("slow_links")


def namespaces() -> list[str]:
    """Hosts whose names end as this process's do: not the one's that collected the tests and forked."""
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=False).stdout
    return [line for line in listed.splitlines() if line.split()[0].endswith(f"-{os.getpid()}")]


def test_hosts_are_gone_after_ranks_that_do_not_end(hosts: Any) -> None:
    from silofl.comm.mpi_library import mpi_info

    with hosts.two_hosts(100.0) as both:
        assert len(namespaces()) == 2
        with pytest.raises(hosts.HostsError, match="not through after 4 s"):
            both.mpirun(mpi_info().launchers[0], 1, ["sleep", "1000"], os.environ, 4.0)
        for name in both.names:
            left = subprocess.run(["ip", "netns", "pids", name], capture_output=True, check=True)
            assert not left.stdout
    assert not namespaces()
    assert not both.agent.parent.exists()


@pytest.mark.long
def test_ranks_of_both_hosts_are_timed(hosts: Any, links: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    found = links.over(200.0, 100_000, 1)
    assert [one.name for one in found.rows] == [links.REFERENCE, *links.WAYS]
    sent, most = found.crossed, found.crossed[links.REFERENCE]
    # Each value crosses in each direction; what another rank sent before the first began is not counted.
    assert most > 2 * 100_000
    assert sent["4 bits"] < 0.7 * sent["secagg"]
    for one in found.rows:  # no faster than the link, and what its buckets hold
        assert sent[one.name] <= 200e6 / 8 * (one.slowest + 0.2)
    assert not namespaces()


def test_what_is_measured_is_there(links: Any) -> None:
    told = json.loads((FOLDER / "results" / "slow-links.json").read_text())
    assert [one["megabits"] for one in told["links"]] == [*links.RATES]
    for one in told["links"]:
        assert [each["name"] for each in one["rows"]] == [links.REFERENCE, *links.WAYS]


def test_a_file_of_other_links_keeps_them(links: Any, tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    rows = [links.row("a", [1.0], "a", [1.0], 0.0, "")]
    link = links.Link(10.0, rows, {"a": 1}, {"a": 1.0})
    path.write_text(links.to_json([link], 5))
    assert links.measured(path, 5) == {10.0: link}
    assert links.measured(path, 6) == links.measured(tmp_path / "none", 5) == {}
