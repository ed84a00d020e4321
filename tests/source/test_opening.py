"""Manifests in buckets: they read as files do, and what is wrong with a bucket is told in seconds."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from servers import S3Endpoint

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source import opening
from pipeline.source.manifest import manifest_digest, read_manifest

CONFIG = SourceConfig()
ROWS = [{"id": f"r{i}", "uri": f"{i}.wav", "duration": 1.0 + i} for i in range(50)]


@pytest.fixture
def bucket(moto_endpoint: S3Endpoint) -> tuple[str, SourceConfig]:
    options = moto_endpoint.storage_options()
    store = fsspec.filesystem("s3", **options)
    store.makedirs("manifests", exist_ok=True)
    store.pipe_file("manifests/in/m.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode())
    with store.open("manifests/in/m.parquet", "wb") as handle:
        pq.write_table(pa.Table.from_pylist(ROWS), handle)
    return "s3://manifests/in", SourceConfig(storage_options=options)


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def mute_server() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("name", ["m.jsonl", "m.parquet"])
def test_a_manifest_in_a_bucket(bucket: tuple[str, SourceConfig], name: str) -> None:
    folder, config = bucket
    rows = pa.concat_tables(read_manifest(f"{folder}/{name}", config)).to_pylist()
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    assert rows[7]["uri"] == "s3://manifests/in/7.wav"
    assert len(manifest_digest(f"{folder}/{name}", config)) == 64


@pytest.mark.parametrize("uri", ["s3://manifests/in/none.jsonl", "s3://no-such-bucket/m.jsonl"])
def test_no_such_object_or_bucket(bucket: tuple[str, SourceConfig], uri: str) -> None:
    with pytest.raises(ManifestError, match=f"There is no manifest {uri}; check the bucket's name"):
        list(read_manifest(uri, bucket[1]))


def told(config: SourceConfig) -> str:
    begin = time.monotonic()
    with pytest.raises(ManifestError) as caught:
        list(read_manifest("s3://bucket/m.jsonl", config))
    assert time.monotonic() - begin < 10
    assert "\n" not in str(caught.value)
    return str(caught.value)


def options(**given: Any) -> SourceConfig:
    return SourceConfig(storage_options={"key": "k", "secret": "s", **given})


def test_nobody_at_the_endpoint() -> None:
    assert "endpoint_url and credentials in source.storage_options" in told(options(endpoint_url="http://127.0.0.1:9"))


@pytest.mark.parametrize("timeout_s", [0.5, pytest.param(opening._BRISK["read_timeout"], marks=pytest.mark.slow)])
def test_an_endpoint_that_never_answers(mute_server: str, monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> None:
    monkeypatch.setitem(opening._BRISK, "read_timeout", timeout_s)
    assert "ReadTimeoutError" in told(options(endpoint_url=mute_server))


@pytest.fixture
def busy_server() -> Iterator[str]:
    """Answers 503 to the first requests, then gives one object for every key."""
    body = b'{"uri": "a.wav"}\n'
    refusals = iter(range(3))

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            busy = next(refusals, None) is not None
            self.send_response(503 if busy else 200)
            self.send_header("Content-Length", "0" if busy else str(len(body)))
            self.end_headers()
            if not busy and self.command == "GET":
                self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_HEAD()

        def log_message(self, format: str, *args: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_busy_store_is_asked_again(busy_server: str) -> None:
    rows = pa.concat_tables(read_manifest("s3://bucket/m.jsonl", options(endpoint_url=busy_server)))
    assert rows["id"].to_pylist() == ["a.wav"]


@pytest.mark.usefixtures("no_credentials")
def test_no_credentials(mute_server: str) -> None:
    assert "credentials" in told(SourceConfig(storage_options={"endpoint_url": mute_server}))


def test_local_paths_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"There is no manifest .*; check the path"):
        list(read_manifest(str(tmp_path / "none.jsonl"), CONFIG))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ManifestError, match="is a folder; name the file in it"):
        list(read_manifest(str(tmp_path / "folder.jsonl"), CONFIG))


def test_a_file_system_that_is_not_installed() -> None:
    with pytest.raises(ManifestError, match="gcsfs"):
        list(read_manifest("gs://bucket/m.jsonl", CONFIG))
