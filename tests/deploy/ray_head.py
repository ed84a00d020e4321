"""A real Ray head with its dashboard, as `ray job submit` needs one: its own process group, ended by pid."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers import free_ports

RAY = str(Path(sys.executable).with_name("ray"))


@contextmanager
def ray_head(folder: Path, num_cpus: int = 4, timeout_s: float = 90.0) -> Iterator[str]:
    """Start a head; yields the address of its Jobs API. `folder`: a short path, for sockets lie below it."""
    ports = free_ports(5)
    command = [
        *(RAY, "start", "--head", "--block", f"--num-cpus={num_cpus}", f"--temp-dir={folder}"),
        *(f"--port={ports[0]}", f"--dashboard-port={ports[1]}", f"--dashboard-agent-listen-port={ports[2]}"),
        *(f"--ray-client-server-port={ports[3]}", f"--metrics-export-port={ports[4]}"),
        *("--include-dashboard=true", "--disable-usage-stats", f"--object-store-memory={300 * 2**20}"),
    ]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    # A stopped job has three seconds by default: too few for a driver that waits for its last parts.
    environment |= {"RAY_AUTH_MODE": "disabled", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    environment["PATH"] = f"{Path(RAY).parent}:{environment['PATH']}"  # jobs say `python` and mean this one
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "head.log").open("wb") as log:
        head = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        _wait_for(f"http://127.0.0.1:{ports[1]}/api/version", head, folder / "head.log", timeout_s)
        yield f"http://127.0.0.1:{ports[1]}"
    finally:
        _end(head)


def _wait_for(url: str, head: subprocess.Popen[bytes], log: Path, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and head.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"the Ray head did not come up: {log.read_text(errors='replace')[-2000:]}")


def _end(head: subprocess.Popen[bytes]) -> None:
    """SIGTERM lets `ray start --block` end what it started; then whatever of its session is left."""
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
