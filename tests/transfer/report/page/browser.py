"""Controls Debian's chromium with its DevTools protocol; the browser is the only package needed.

The protocol uses two pipes (`--remote-debugging-pipe`: commands on descriptor 3, answers on 4, each
one JSON text and a zero byte), as https://chromedevtools.github.io/devtools-protocol describes.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
needs_browser = pytest.mark.skipif(BROWSER is None, reason="needs chromium")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync "
    "--disable-background-networking --disable-component-update --hide-scrollbars "
    "--disable-dev-shm-usage --remote-debugging-pipe"
).split()
SECONDS = 60  # for one answer, on a busy machine
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}


class Browser:
    """One page. `problems` collects console messages, exceptions and requests that leave the file.

    with Browser(tmp_path) as browser:
        browser.open(page)
        assert browser.run("document.title") == "..."
    """

    def __init__(self, folder: Path) -> None:
        assert BROWSER, "needs chromium"
        self.problems: list[str] = []
        self._numbers = itertools.count(1)
        self._events: list[dict[str, Any]] = []
        self._rest = b""
        command_out, self._write = os.pipe()
        self._read, answer_in = os.pipe()
        # The browser expects descriptors 3 and 4, which a child of ours may have in use.
        shell = f'exec "$@" 3<&{command_out} 4>&{answer_in}'
        command = [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        self._log = (folder / "chromium.log").open("wb")
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(command_out, answer_in),
            stdout=self._log,
            stderr=self._log,
        )
        os.close(command_out)
        os.close(answer_in)
        pages = self.call("Target.getTargets")["targetInfos"]
        target = next(page["targetId"] for page in pages if page["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session: str | None = None

    def __enter__(self) -> Browser:
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._session = None
            self.call("Browser.close")
        finally:
            os.close(self._write)
            os.close(self._read)
            self._log.close()
            self._process.wait(timeout=SECONDS)

    def open(self, path: Path) -> None:
        """Loads a file and waits for its load event."""
        self._events.clear()
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._events.append(self._receive())

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression; an exception in it fails the test."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, shift: bool = False) -> None:
        """One key, as a keyboard sends it."""
        code, text = KEYS[key]
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 * shift}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """The size of the window in CSS pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def emulate(self, media: str = "", scheme: str = "light") -> None:
        """`media` "print" or "" for the screen; the system's colour scheme, light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the complete page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def pdf(self, path: Path) -> None:
        """What the printer gets."""
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF")["data"]))

    def names(self) -> list[tuple[str, str]]:
        """(role, name) of what a screen reader reads, in order."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and "role" in node
        ]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its answer; events that come in between are kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._events.append(answer)

    def _receive(self) -> dict[str, Any]:
        end = time.monotonic() + SECONDS
        while b"\0" not in self._rest:
            left = end - time.monotonic()
            assert left > 0 and select.select([self._read], [], [], left)[0], "chromium is silent"
            part = os.read(self._read, 1 << 20)
            assert part, "chromium ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        message = json.loads(text)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        method, facts = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.problems.append(str(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            self.problems.append(f"console: {facts['args']}")
        elif method == "Log.entryAdded":
            self.problems.append(f"log: {facts['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            url = facts["request"]["url"]
            if not url.startswith(("file:", "data:", "about:")):
                self.problems.append(f"fetches {url}")
