"""Penstock, started as its users start it."""

import os
import re
import urllib.error
import urllib.request
from pathlib import Path

from processes import TARGET, Service, free_ports

BINARY = Path(os.environ.get("PENSTOCK_BIN", TARGET / "release" / "penstock"))
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


class PenstockPeer:
    segment_bytes_key = "segment.bytes"

    def __init__(
        self,
        data_dir: Path,
        fetch_path: str = "auto",
        launcher: tuple = (),
        settings: dict | None = None,
        ports: tuple[int, int] | None = None,
    ):
        """`settings` are what --set takes; `ports` those of a server before it."""
        self.data_dir = data_dir
        self.ports = port, metrics = ports or tuple(free_ports(2))
        self.address = f"127.0.0.1:{port}"
        self._metrics = f"http://127.0.0.1:{metrics}"
        arguments = ["--data-dir", data_dir, "--listen", self.address, "--fetch-path", fetch_path]
        for name, value in (settings or {}).items():
            arguments += ["--set", f"{name}={value}"]
        self._service = Service(
            [*launcher, BINARY, "serve", *arguments, "--metrics", f"127.0.0.1:{metrics}"],
            log=data_dir.with_suffix(".out"),
            ready=self._says_ready,
            ready_within_s=60,
        )

    @property
    def page_url(self) -> str:
        return self._metrics + "/"

    @property
    def pid(self) -> int:
        return self._service.pid

    def stop(self) -> None:
        self._service.stop(expected_exit=0)

    def kill(self) -> None:
        self._service.kill()

    def words(self) -> str:
        return self._service.words()

    def metrics(self) -> dict[str, dict[str, float]]:
        """Every sample of /metrics: name, then labels as they are printed, then value."""
        samples: dict[str, dict[str, float]] = {}
        for name, labels, value in SAMPLE.findall(self._get("/metrics")):
            samples.setdefault(name, {})[labels] = float(value)
        return samples

    def sent_bytes(self) -> dict[str, float]:
        """Record bytes sent so far by each path."""
        sent = self.metrics().get("penstock_sent_bytes_total", {})
        return {path: sent.get(f'path="{path}"', 0) for path in ("chain", "sendfile", "copy")}

    def _says_ready(self) -> bool:
        try:
            self._get("/readyz")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False
        return True

    def _get(self, path: str) -> str:
        with urllib.request.urlopen(self._metrics + path, timeout=5) as answer:
            return answer.read().decode()
