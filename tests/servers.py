"""Real S3 servers for tests: SeaweedFS (its own process, on disk) and moto (a thread, in memory)."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

KEY, SECRET = "quarry-test-key", "quarry-test-secret"


class S3Endpoint(NamedTuple):
    """Where a test server listens and how to be let in."""

    endpoint_url: str
    key: str
    secret: str

    def storage_options(self) -> dict[str, Any]:
        """What `fsspec.filesystem("s3", **options)` and `source.storage_options` take."""
        return {"endpoint_url": self.endpoint_url, "key": self.key, "secret": self.secret}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listened on a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@dataclass
class Seaweed:
    """A SeaweedFS server on a folder; `kill` and `start` let a test crash it and bring it back with its data."""

    folder: Path
    ports: list[int]
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> S3Endpoint:
        return S3Endpoint(f"http://127.0.0.1:{self.ports[0]}", KEY, SECRET)

    def start(self, timeout_s: float = 60.0) -> None:
        weed = shutil.which("weed") or str(Path(sys.executable).with_name("weed"))
        log = (self.folder / "weed.log").open("ab")
        self.process = subprocess.Popen([weed, *self._arguments()], stdout=log, stderr=log, start_new_session=True)
        log.close()
        deadline = time.monotonic() + timeout_s
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "weed.log").read_text(errors="replace")[-2000:]
                self.kill()
                raise RuntimeError(f"weed did not start: {tail}")
            time.sleep(0.1)

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def _arguments(self) -> Sequence[str]:
        names = ("s3.port", "master.port", "volume.port", "filer.port")
        ports = [f"-{name}={port}" for name, port in zip(names, self.ports[:4], strict=True)]
        grpc = [f"-{name}.grpc={port}" for name, port in zip(names, self.ports[4:8], strict=True)]
        identity = {"name": "test", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        config = self.folder / "s3.json"
        config.write_text(json.dumps({"identities": [identity]}))
        data = self.folder / "data"
        data.mkdir(exist_ok=True)
        # Each bucket takes several volumes; with 20 a session's fourth bucket finds none left.
        return [
            *("server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={data}", "-filer", "-s3", f"-s3.config={config}"),
            *("-master.volumeSizeLimitMB=256", "-volume.max=200", "-master.telemetry=false", *ports, *grpc),
            *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        ]

    def _ready(self) -> bool:
        """Whether a signed write succeeds: the gateway answers long before the volumes do."""
        try:
            urllib.request.urlopen(self.endpoint.endpoint_url, timeout=1).close()
        except urllib.error.HTTPError:
            pass  # it asks for a signature: it is there
        except OSError:
            return False
        try:
            filesystem = connect(self.endpoint)
            filesystem.mkdirs("ready", exist_ok=True)
            filesystem.pipe_file("ready/probe", b"1")
        except OSError:
            return False
        return True


def _keep_descriptions() -> None:
    """Each session of botocore reads its description of S3 from the disk, a third of a second; hundreds of clients share one."""
    import botocore.session

    if not hasattr(botocore.session.create_loader, "cache_info"):
        botocore.session.create_loader = cache(botocore.session.create_loader)


def connect(endpoint: S3Endpoint) -> Any:
    """An fsspec filesystem on the server, not shared with anything else in the process."""
    import s3fs

    _keep_descriptions()
    return s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False, **endpoint.storage_options())


@contextmanager
def start_seaweed(tmp_path: Path) -> Iterator[S3Endpoint]:
    """A running SeaweedFS with its data under `tmp_path`; yields (endpoint_url, key, secret)."""
    server = Seaweed(tmp_path, free_ports(8))
    server.start()
    try:
        yield server.endpoint
    finally:
        server.kill()


@contextmanager
def start_moto() -> Iterator[S3Endpoint]:
    """A running moto server in a thread of this process: quick to start, data in memory, any credentials."""
    from moto.server import ThreadedMotoServer

    _keep_descriptions()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield S3Endpoint(f"http://{host}:{port}", KEY, SECRET)
    finally:
        server.stop()
