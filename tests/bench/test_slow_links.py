"""Benchmarks over a link (`benchmarks/links.py`): ranks on two hosts, whose link is as slow as it is said."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

FOLDER = ROOT / "benchmarks"


SCRIPTS = {"slow_links": "slow-links", "sums_across_hosts": "sums-across-hosts"}
"""Each with its file of results."""


@pytest.fixture(params=SCRIPTS)
def script(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return __import__(request.param)


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


def less(script: Any) -> tuple[str, str]:
    """One of its ways with less than 0.7 of another's bytes on the link."""
    if script.__name__ == "slow_links":
        return "4 bits", "secagg"
    return "secure sum, 8 bits", "secure sum, 16 bits"


@pytest.mark.long
def test_ranks_of_both_hosts_are_timed(hosts: Any, script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    links = script.links
    found = links.over(script.__file__, 200.0, 100_000, 1)
    sent, most = found.crossed, found.crossed[links.REFERENCE]
    assert [one.name for one in found.rows] == list(sent)
    # Each value crosses in each direction; what another rank sent before the first began is not counted.
    assert most > 2 * 100_000
    few, many = less(script)
    assert sent[few] < 0.7 * sent[many]
    for one in found.rows:  # no faster than the link, and what its buckets hold
        assert sent[one.name] <= 200e6 / 8 * (one.slowest + 0.2)
    assert not namespaces()


def test_what_is_measured_is_there(script: Any) -> None:
    told = json.loads((FOLDER / "results" / f"{SCRIPTS[script.__name__]}.json").read_text())
    assert [one["megabits"] for one in told["links"]] == [*script.RATES]
    for one in told["links"]:
        names = [each["name"] for each in one["rows"]]
        assert names[0] == script.links.REFERENCE
        assert set(less(script)) < set(names)
        assert names == list(one["crossed"])


def test_a_file_of_other_links_keeps_them(script: Any, tmp_path: Path) -> None:
    path, links = tmp_path / "links.json", script.links
    rows = [links.row("a", [1.0], "a", [1.0], 0.0, "")]
    link = links.Link(10.0, rows, {"a": 1}, {"a": 1.0})
    path.write_text(script.to_json([link], 5))
    assert links.measured(path, 5) == {10.0: link}
    assert links.measured(path, 6) == links.measured(tmp_path / "none", 5) == {}
