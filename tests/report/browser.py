"""Chromium without a screen, driven by its DevTools protocol over two pipes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--remote-debugging-pipe", "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars"),
)
PATIENCE_S = "60"


def chromium() -> str | None:
    """The browser, where there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Browser:
    """One page; all that it says is in `events`, by the names of the protocol.

    Source: https://chromedevtools.github.io/devtools-protocol/, messages end with a zero byte.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp()
        theirs, self._out = os.pipe()
        self._in, other = os.pipe()
        shell = f'exec timeout {PATIENCE_S} "$0" "$@" 3<&{theirs} 4>&{other}'  # which takes 3 and 4
        line = [
            "bash",
            "-c",
            shell,
            chromium() or "",
            *FLAGS,
            f"--user-data-dir={self._folder}",
            "about:blank",
        ]
        self._process = subprocess.Popen(line, pass_fds=(theirs, other), stderr=subprocess.DEVNULL)
        os.close(theirs)
        os.close(other)
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._number, self._rest, self._session = 0, b"", ""
        target = self.call("Target.getTargets")["targetInfos"][0]["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, event: str) -> None:
        """Wait for an event that comes after now."""
        begun = len(self.events)
        while event not in [name for name, _ in self.events[begun:]]:
            self._next()

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            piece = os.read(self._in, 1 << 16)
            assert piece, "the browser has ended"
            self._rest += piece
        text, self._rest = self._rest.split(b"\0", 1)
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            self.events.append((message["method"], message["params"]))
        return message

    def open(self, path: Path) -> None:
        """Go to a page, and wait until it is there."""
        self.call("Page.navigate", url=path.as_uri())
        if "Page.loadEventFired" not in [name for name, _ in self.events]:
            self.wait("Page.loadEventFired")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"]["value"]

    def of(self, event: str) -> list[dict[str, Any]]:
        """All events of a name so far."""
        return [parameters for name, parameters in self.events if name == event]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)  # at which it ends
        os.close(self._in)
        self._process.terminate()
        self._process.wait(timeout=20)
        shutil.rmtree(self._folder, ignore_errors=True)
