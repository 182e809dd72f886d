"""What docs/across-sites.md says of networks and ports, on two hosts that have a second network as well."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.on_hosts import silofl_there

EXPORTS = dict(re.findall(r"^export (\w+)=(\S+)", (ROOT / "docs/across-sites.md").read_text(), re.MULTILINE))
PRIVATE = "10.99.0."
RANKS, LAUNCHER = range(20000, 20100), (21000,)


def give_second_network(both: Any) -> None:
    """A network at each host that has the addresses of the other's and leads nowhere."""
    for number, name in enumerate(both.names, 1):
        for words in (
            "link add lan0 type veth peer name lan1",
            "link set lan0 up",
            "link set lan1 up",
            f"addr add 192.168.77.{number}/24 dev lan0",
        ):
            subprocess.run(["ip", "-n", name, *words.split()], check=True, timeout=10)


def address(text: str) -> tuple[str, int]:
    """Of /proc/net/tcp: `0100007F:0050` is 127.0.0.1, 80."""
    number, port = text.split(":")
    return ".".join(str(int(number[at : at + 2], 16)) for at in (6, 4, 2, 0)), int(port, 16)


class Connections:
    """Looks again and again which connections there are between the hosts."""

    def __init__(self, both: Any) -> None:
        self.ports: set[frozenset[int]] = set()
        self._both, self._over = both, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Connections:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            line = ["ip", "netns", "exec", self._both.names[0], "cat", "/proc/net/tcp"]
            told = subprocess.run(line, capture_output=True, text=True, timeout=10, check=False).stdout
            for words in map(str.split, told.splitlines()[1:]):
                (_, own), (there, other) = address(words[1]), address(words[2])
                if there.startswith(PRIVATE) and words[3] == "01":  # established
                    self.ports.add(frozenset((own, other)))


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_settings_that_are_documented_keep_to_the_network_and_the_ports(
    hosts: Any, tmp_path: Path
) -> None:
    with hosts.two_hosts(100.0) as both:
        named = ["doctor", "--host", ",".join(both.addresses), "--json", "-"]
        give_second_network(both)
        alone = json.loads(silofl_there(hosts, both, *named, folder=tmp_path).stdout)
        with Connections(both) as seen:
            pinned = json.loads(silofl_there(hosts, both, *named, folder=tmp_path, **EXPORTS).stdout)
    met = {one["what"]: one["mark"] for one in alone["between"]}
    assert met["MPI between hosts"] == "missing"  # which the settings are for
    assert pinned["exit_code"] == 0, pinned["between"]
    assert len(EXPORTS) == 5
    assert any(port in RANKS for ports in seen.ports for port in ports)
    assert any(port in LAUNCHER for ports in seen.ports for port in ports)
    assert all(any(port in (*RANKS, *LAUNCHER) for port in ports) for ports in seen.ports)
