"""The system calls of a process, as strace saw them."""

import contextlib
import fnmatch
import re
import subprocess
import time
from collections import Counter
from pathlib import Path

# "1234 read(5</a/file>, ""..., 4096) = 4096", or its second half: "1234 <... read resumed>""..., 4096) = 4096".
CALL = re.compile(r"^\d+ +(?:<\.\.\. )?(\w+)(.*?)(?: = (-?\d+|0x[0-9a-f]+|\?).*)?$", re.MULTILINE)
MAPPED = re.compile(r"<([^>]+)>")


class Calls:
    def __init__(self, traced_to: Path):
        self._calls = [(name, words, result) for name, words, result in CALL.findall(traced_to.read_text())]

    def names(self) -> set[str]:
        return {name for name, _, _ in self._calls}

    def bytes_by_call(self, names: tuple[str, ...]) -> dict[str, int]:
        """The sum of the results of calls by name: bytes, for calls that move bytes. Errors do not count."""
        moved: Counter[str] = Counter()
        for name, _, result in self._calls:
            if name in names and result.isdecimal():
                moved[name] += int(result)
        return dict(moved)

    def mapped(self, pattern: str) -> list[str]:
        """Files of such names that were mapped into memory."""
        mapped = [path for name, words, _ in self._calls if name == "mmap" for path in MAPPED.findall(words)]
        return [path for path in mapped if fnmatch.fnmatch(path, pattern)]


@contextlib.contextmanager
def traced(pid: int, output: Path):
    """Every system call that the process's threads make inside the block. Fill in after it has ended."""
    command = ["strace", "-f", "-y", "-s", "0", "-o", str(output), "-p", str(pid)]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    calls = Calls.__new__(Calls)
    try:
        _wait_until_traced(pid, tracer)
        yield calls
    finally:
        tracer.terminate()
        tracer.communicate(timeout=30)
    calls.__init__(output)


def _wait_until_traced(pid: int, tracer: subprocess.Popen) -> None:
    deadline = time.monotonic() + 20
    while not all(_is_traced(task) for task in Path(f"/proc/{pid}/task").iterdir()):
        assert tracer.poll() is None, f"strace ended: {tracer.stderr.read().decode(errors='replace')}"
        assert time.monotonic() < deadline, "strace did not attach within 20 s"
        time.sleep(0.02)


def _is_traced(task: Path) -> bool:
    """io_uring's kernel threads belong to the process but run no system calls, so they cannot be traced."""
    try:
        if (task / "comm").read_text().startswith("iou-"):
            return True
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except FileNotFoundError:
        return True
