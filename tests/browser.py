"""Headless Chromium for tests of pages, through the W3C WebDriver protocol of chromedriver, which needs no package."""

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from processes import HANGING

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
NEEDS_BROWSER = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason=f"needs Chromium and chromedriver (Debian: chromium-driver), found {CHROMIUM} and {DRIVER}",
)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --force-device-scale-factor=1 --hide-scrollbars"
).split()
KEYS = {"left": "\ue012", "up": "\ue013", "right": "\ue014", "down": "\ue015", "shift": "\ue008", "escape": "\ue00c"}


class Browser:
    """A chromedriver process with one window.

    Args:
        directory: for the log of the driver.
    """

    def __init__(self, directory: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        arguments = [DRIVER, f"--port={port}", f"--log-path={directory / 'chromedriver.log'}"]
        self.process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        self._wait_for_driver()
        options = {"binary": CHROMIUM, "args": FLAGS}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.address += f"/session/{made['sessionId']}"

    def _wait_for_driver(self) -> None:
        end = time.monotonic() + HANGING
        while True:
            try:
                self._call("GET", "/status")
                return
            except urllib.error.URLError:
                assert self.process.poll() is None, "chromedriver has exited"
                assert time.monotonic() < end, "chromedriver does not answer"
                time.sleep(0.05)

    def _call(self, method: str, path: str, body=None):
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self.address + path, content, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=HANGING) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error

    def close(self) -> None:
        """End the browser and the driver."""
        try:
            self._call("DELETE", "")
        finally:
            self.process.terminate()
            self.process.wait(HANGING)

    def devtools(self, command: str, **values) -> None:
        """Run a command of Chromium's DevTools."""
        self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": values})

    def open(self, path: Path, width: int = 1280, height: int = 800, scheme: str = "light") -> None:
        """Open a file in a window of that size, in CSS pixels."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.devtools("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._call("POST", "/url", {"url": path.as_uri()})

    def run(self, script: str):
        """The value of the body of a JavaScript function."""
        return self._call("POST", "/execute/sync", {"script": script, "args": []})

    def wait(self, expression: str):
        """Wait until an expression is true; return its value."""
        end = time.monotonic() + HANGING
        while not (value := self.run(f"return {expression}")):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)
        return value

    def point(self, x: float, y: float, kind: str = "mouse", press: bool = False) -> None:
        """Move a mouse or a finger ("touch") to a place in the window, and press there."""
        steps = [{"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}]
        if press:
            steps += [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        actions = [{"type": "pointer", "id": kind, "parameters": {"pointerType": kind}, "actions": steps}]
        self._call("POST", "/actions", {"actions": actions})

    def press(self, *keys: str) -> None:
        """Press keys one after the other: letters, or names of `KEYS`; "shift+l" holds one down."""
        steps = []
        for key in keys:
            chord = [KEYS.get(part, part) for part in key.split("+")]
            steps += [{"type": "keyDown", "value": part} for part in chord]
            steps += [{"type": "keyUp", "value": part} for part in reversed(chord)]
        self._call("POST", "/actions", {"actions": [{"type": "key", "id": "keys", "actions": steps}]})

    def complaints(self) -> list[str]:
        """The console messages since the last call, including failed requests."""
        return [entry["message"] for entry in self._call("POST", "/se/log", {"type": "browser"})]

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the window."""
        path.write_bytes(base64.b64decode(self._call("GET", "/screenshot")))
