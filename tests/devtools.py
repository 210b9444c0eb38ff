"""Headless Chromium driven by its DevTools protocol, over a pipe: real files, drops, keys and screenshots in tests."""

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kerazoo.exports.web import chromium

SECONDS = 30  # for one answer of the browser, or for what a test waits for
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32}
# before any script of a page runs: what the page's policy forbade
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => {
  window.violations.push(`${event.violatedDirective}: ${event.blockedURI}`);
});
"""


class Browser:
    """One page. `commands` and `answers` are file descriptors of the pipes."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._read = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.command(f"{domain}.enable")
        self.command("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    def command(self, method, **parameters):
        """What the browser answers to a command of the protocol."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self._read:
            assert select.select([self._answers], [], [], SECONDS)[0], "the browser is silent"
            more = os.read(self._answers, 1 << 20)
            assert more, "the browser ended"
            self._read += more
        message, self._read = self._read.split(b"\0", 1)
        return json.loads(message)

    def evaluate(self, script):
        """The value of an expression in the page; a promise is waited for."""
        answer = self.command("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, script):
        """Wait until an expression holds in the page."""
        until = time.monotonic() + SECONDS
        while not self.evaluate(script):
            assert time.monotonic() < until, f"{script}; the page shows: {self.evaluate('document.body.innerText')}"
            time.sleep(0.02)

    def open(self, address):
        """Show the page at `address`, once it is loaded; what was seen of earlier ones is forgotten."""
        self.command("Page.navigate", url="about:blank")
        self.events.clear()
        self.command("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def problems(self):
        """Errors of scripts, and what the page's policy forbade."""
        found = self.evaluate("window.violations")
        for event in self.events:
            entry = event.get("params", {}).get("entry", {})
            if event.get("method") == "Runtime.exceptionThrown" or entry.get("source") == "security":
                found.append(str(event["params"]))
        return found

    def choose(self, selector, path: Path):
        """Choose a file in an <input type="file">, as a person does in its dialog."""
        root = self.command("DOM.getDocument")["root"]["nodeId"]
        node = self.command("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.command("DOM.setFileInputFiles", files=[str(path)], nodeId=node)

    def drop(self, path: Path, x, y):
        """Drag a file to a place of the page and let it go there."""
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.command("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key):
        """Press a key of KEYS."""
        values = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
        self.command("Input.dispatchKeyEvent", type="keyDown", **values, **text)
        self.command("Input.dispatchKeyEvent", type="keyUp", **values)

    def type(self, text):
        """Write a text where the focus is."""
        self.command("Input.insertText", text=text)

    def look(self, width, height=800, *, scheme="light", phone=False, scale=1):
        """Show the page with this size, in a light or dark scheme."""
        self.command(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        self.command("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, *, whole=False):
        """PNG."""
        shot = self.command("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        return base64.b64decode(shot["data"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Inside, a headless Chromium; `profile` is a new folder. Raises InputError if none is installed."""
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    command = [
        chromium.find_browser(), *chromium.OPTIONS, *root, f"--user-data-dir={profile}", "--remote-debugging-pipe"
    ]  # fmt: skip
    from_test, commands = os.pipe()
    answers, to_test = os.pipe()
    # the browser reads commands from descriptor 3 and answers on 4
    start = f"import os, sys; os.dup2({from_test}, 3); os.dup2({to_test}, 4); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-I", "-c", start, *command], pass_fds=(from_test, to_test), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(from_test)
    os.close(to_test)
    try:
        yield Browser(commands, answers)
    finally:
        os.close(commands)
        os.close(answers)
        chromium._end(process)
