"""Headless Chromium, driven by its DevTools protocol: open a page, ask it, press its buttons, take a picture of it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import time
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

from ..waiting import end

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
WITHIN_S = 200.0


class Tab:
    """The one tab of a browser.

    Attributes:
        faults: exceptions of scripts, and what the content security policy blocked.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self.faults: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.do(f"{domain}.enable")

    def do(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv(WITHIN_S))
            self._note(message)
            if message.get("id") == number:
                if "error" in message:
                    raise AssertionError(message["error"])
                result: dict[str, Any] = message["result"]
                return result

    def _note(self, message: dict[str, Any]) -> None:
        if message.get("method") == "Runtime.exceptionThrown":
            self.faults.append(json.dumps(message["params"]["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded":
            entry = message["params"]["entry"]
            if entry["level"] == "error" and entry["source"] != "network":  # a refusal of the server, or one that has stopped, is no fault
                self.faults.append(entry["text"])

    def open(self, url: str) -> None:
        self.do("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        found = self.do("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Return once an expression is true in the page, which may be loading."""
        deadline = time.monotonic() + WITHIN_S
        while time.monotonic() < deadline:
            try:
                if self.ask(f"Boolean({script})"):
                    return
            except AssertionError:
                pass  # between two documents
            time.sleep(0.05)
        raise AssertionError(f"never true: {script}; the page shows {self.ask('document.body.innerText')}")

    def size(self, width: int, *, dark: bool = False, height: int = 900, scale: float = 1) -> None:
        self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False)
        self.do("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def picture(self, *, whole: bool = True) -> bytes:
        """The page as PNG."""
        taken = self.do("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return b64decode(taken["data"])


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0", "about:blank"]
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            port = _port(folder / "profile" / "DevToolsActivePort")
            with connect(_socket_of(port), max_size=None, proxy=None, open_timeout=WITHIN_S, ping_interval=None) as socket:
                yield Tab(socket)
        finally:
            end(process, WITHIN_S)


def _port(file: Path) -> int:
    deadline = time.monotonic() + WITHIN_S
    while time.monotonic() < deadline:
        if file.exists() and (lines := file.read_text().split()):
            return int(lines[0])
        time.sleep(0.05)
    raise AssertionError("Chromium has not started")


def _socket_of(port: int) -> str:
    import httpx2

    pages = httpx2.get(f"http://127.0.0.1:{port}/json/list", timeout=WITHIN_S, trust_env=False).json()
    return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
