"""A headless Chromium, driven over its DevTools protocol through two pipes: no port, no driver, no package.

Messages are JSON, each ended by a zero byte. Everything that goes wrong on the page is kept in `Page.faults`.
"""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

PATIENCE_S = 30
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "Escape": 27}
TYPED = {"Enter": "\r", " ": " "}


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    def __init__(self, profile: Path):
        down, self._write = os.pipe()
        self._read, up = os.pipe()
        # Chromium expects the descriptors 3 and 4, which one of these may be now.
        down, up = (fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in (down, up))
        flags = ["--headless=new", "--no-sandbox", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        flags += ["--no-first-run", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
        flags += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "about:blank"]

        def hand_over() -> None:
            os.dup2(down, 3)
            os.dup2(up, 4)

        self._process = subprocess.Popen(
            [chromium(), *flags],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            pass_fds=(3, 4), preexec_fn=hand_over,
        )
        os.close(down)
        os.close(up)
        self._received, self._last_id, self._pages = b"", 0, {}

    def close(self) -> None:
        with contextlib.suppress(OSError, AssertionError):
            self.call("Browser.close")
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, url: str, width: int, height: int, scheme: str) -> "Page":
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, target, session)
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            page.call(f"{domain}.enable")
        page.show_as(width, height, scheme)
        page.call("Page.navigate", url=url)
        return page

    def call(self, method: str, session: str | None = None, **parameters) -> dict:
        self._last_id += 1
        message = {"id": self._last_id, "method": method, "params": parameters}
        if session:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            answer = self._next(deadline, method)
            if answer.get("id") == self._last_id:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            if page := self._pages.get(answer.get("sessionId")):
                page.note(answer.get("method"), answer.get("params", {}))

    def _next(self, deadline: float, what: str) -> dict:
        while b"\0" not in self._received:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"Chromium does not answer {what}"
            more = os.read(self._read, 1 << 20)
            assert more, f"Chromium ended during {what}"
            self._received += more
        message, self._received = self._received.split(b"\0", 1)
        return json.loads(message)


class Page:
    """`faults` has console errors, exceptions, violations of the policy, and requests that failed."""

    def __init__(self, browser: Browser, target: str, session: str):
        self._browser, self._target, self._session = browser, target, session
        self.faults: list[str] = []
        self.requests: list[str] = []

    def call(self, method: str, **parameters) -> dict:
        return self._browser.call(method, self._session, **parameters)

    def note(self, method: str | None, event: dict) -> None:
        match method:
            case "Network.requestWillBeSent":
                self.requests.append(event["request"]["url"])
            case "Network.loadingFailed" if not event.get("canceled"):
                self.faults.append(f"a request failed: {event['errorText']}")
            case "Network.responseReceived" if event["response"]["status"] >= 400:
                self.faults.append(f"{event['response']['status']} for {event['response']['url']}")
            case "Runtime.exceptionThrown":
                self.faults.append(f"exception: {event['exceptionDetails']}")
            case "Runtime.consoleAPICalled" if event["type"] in ("error", "warning", "assert"):
                self.faults.append(f"console: {event['args']}")
            case "Log.entryAdded" if event["entry"]["level"] in ("error", "warning"):
                self.faults.append(f"log: {event['entry']['text']}")

    def show_as(self, width: int, height: int, scheme: str) -> None:
        self._shown_as = (width, height, scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def ask(self, script: str):
        """The value of an expression."""
        done = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, f"{script}: {done['exceptionDetails']}"
        return done["result"].get("value")

    def wait_for(self, script: str, what: str, within_s: float = PATIENCE_S):
        deadline = time.monotonic() + within_s
        while not (value := self.ask(script)):
            assert time.monotonic() < deadline, f"{what}: not within {within_s} s. The page:\n{self.text()}"
            time.sleep(0.05)
        return value

    def text(self) -> str:
        return self.ask("document.body.innerText")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            typed = {"text": TYPED[key]} if key in TYPED and kind == "keyDown" else {}
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=KEYS[key], **typed)

    def tree(self) -> list[tuple[str, str]]:
        """What a screen reader finds: role and name of every node that is not ignored."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        value = lambda node, of: str(node.get(of, {}).get("value", ""))
        return [(value(node, "role"), value(node, "name")) for node in nodes if not node["ignored"]]

    def screenshot(self, path: Path) -> None:
        """All of the page: the window grows to its height, since a page draws only what is in its window."""
        width, height, scheme = self._shown_as
        self.show_as(width, max(height, self.ask("document.scrollingElement.scrollHeight")), scheme)
        self.ask("new Promise(drawn => requestAnimationFrame(() => setTimeout(drawn, 200)))")
        png = self.call("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(png))
        self.show_as(width, height, scheme)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
