"""Programs from outside: one that runs to its end, and one that serves until it is stopped.

Every wait has an end, and every failure includes the program's output.
"""

import contextlib
import os
import random
import signal
import socket
import subprocess
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
TARGET = CHECKOUT / "target"
SHOWN_BYTES = 4_000
LISTENING_PORTS = (20_000, 32_000)


def patience_s(records: int) -> float:
    """How long one program may take over so many records before it counts as hung."""
    return 60 + records / 1_000


def run(argv, *, timeout_s: float, stdin: bytes = b"") -> bytes:
    """Runs a program to its end and returns what it printed. Fails with its words if it does not exit 0."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, timeout=timeout_s, env=_environment())
    except subprocess.TimeoutExpired as hung:
        raise AssertionError(f"no end after {timeout_s:.0f} s: {' '.join(argv)}\n{tail(hung.stderr)}") from None
    assert done.returncode == 0, (
        f"exit code {done.returncode}: {' '.join(argv)}\n{tail(done.stderr)}\n{tail(done.stdout)}"
    )
    return done.stdout


def _environment() -> dict[str, str]:
    """The tests' own variables are none of the server's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}


def wait_until(true, what: str, within_s: float = 30) -> None:
    """Asks again and again until the answer is yes; fails with the words if that takes too long."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(0.05)


def tail(printed: bytes | None) -> str:
    return (printed or b"")[-SHOWN_BYTES:].decode(errors="replace")


def free_ports(count: int) -> list[int]:
    """Free ports of the loopback address.

    They lie below those that the kernel gives to outgoing connections: one of these would be free now and some client's
    own end before the server binds it.
    """
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(*LISTENING_PORTS)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.add(port)
    return list(ports)


class Service:
    """A server process whose output goes to a file, from ready to stopped or killed."""

    def __init__(self, argv, *, log: Path, ready, ready_within_s: float):
        self.log = log
        self._argv = [str(word) for word in argv]
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=_environment()
            )
        try:
            self._wait_until(ready, ready_within_s)
        except BaseException:
            self.kill()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def words(self) -> str:
        """Nothing, once its directory has been removed with that of a test that passed."""
        try:
            return tail(self.log.read_bytes())
        except FileNotFoundError:
            return ""

    def stop(self, expected_exit: int, within_s: float = 60) -> None:
        """Asks it to stop and insists that it does, in time and with the exit code that says so."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {within_s} s of SIGTERM\n{self.words()}") from None
        assert code == expected_exit, f"exit code {code} after SIGTERM, not {expected_exit}\n{self.words()}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait_until(self, ready, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not ready():
            code = self._process.poll()
            assert code is None, f"exit code {code} before it was ready: {' '.join(self._argv)}\n{self.words()}"
            assert time.monotonic() < deadline, f"not ready after {within_s} s: {' '.join(self._argv)}\n{self.words()}"
            time.sleep(0.05)
