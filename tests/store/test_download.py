"""Copying an object into a local file: whole or not at all, in little memory, on good days and bad ones."""

from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from flaky_proxy import FlakyProxy
from servers import S3Endpoint, connect

from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store import patience
from pipeline.store.base import ObjectInfo
from pipeline.store.download import RANGE_BYTES as TRUE_RANGE_BYTES
from pipeline.store.download import RANGES_AT_ONCE, download
from pipeline.store.objects import ObjectStore, StoreKeyMissing

RANGE_BYTES = 2**20  # an eighth of the true ones: what is said here holds for ranges of any size
DATA = np.random.default_rng(11).bytes(3 * RANGE_BYTES + 5)


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.store.download.RANGE_BYTES", RANGE_BYTES)


def only(store: ObjectStore) -> ObjectInfo:
    (info,) = store.list("")
    return info


@pytest.mark.parametrize("size_bytes", [0, 1, RANGE_BYTES, RANGE_BYTES + 1, len(DATA)])
def test_an_object_arrives_whole(store: ObjectStore, tmp_path: Path, size_bytes: int) -> None:
    store.put_if_absent("model/weights", DATA[:size_bytes])
    store.get_to_file(only(store), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == DATA[:size_bytes]


def test_a_range_is_all_of_it_or_an_error(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.001)
    store.put_if_absent("a", b"0123456789")
    assert store.get_range("a", 0, 4) == b"0123"
    assert store.get_range("a", 7, 10) == b"789"
    assert store.get_range("a", 3, 3) == b""
    with pytest.raises(StoreError, match="could not be read"):
        store.get_range("a", 5, 11)
    with pytest.raises(StoreKeyMissing):
        store.get_range("b", 0, 1)


def test_a_shallow_listing_stays_in_the_folder(store: ObjectStore) -> None:
    for key in ("a", "b", "deep/c", "deep/er/d"):
        store.put_if_absent(key, b"1")
    assert {info.key for info in store.list("", deep=False)} == {"a", "b"}
    assert {info.key for info in store.list("deep", deep=False)} == {"deep/c"}
    assert {info.key for info in store.list("")} == {"a", "b", "deep/c", "deep/er/d"}


def test_a_file_that_is_there_is_not_written_over(store: ObjectStore, tmp_path: Path) -> None:
    store.put_if_absent("a", b"new")
    (tmp_path / "copy").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        store.get_to_file(only(store), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"old"


def test_an_object_that_is_replaced_meanwhile_is_no_mixture(s3_endpoint: S3Endpoint, tmp_path: Path) -> None:
    connect(s3_endpoint).mkdirs("replaced", exist_ok=True)
    store = ObjectStore("s3://replaced", StoreConfig(storage_options=s3_endpoint.storage_options()))
    store.put_if_absent("a", DATA)
    info = only(store)
    connect(s3_endpoint).pipe_file("replaced/a", DATA[::-1])
    with pytest.raises(StoreError, match="a changed while it was read; run again"):
        store.get_to_file(info, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["refuse", "reset", "truncate"])
def test_broken_connections_are_mended(flaky: ObjectStore, proxy: FlakyProxy, tmp_path: Path, fault: str) -> None:
    flaky.put_if_absent("a", DATA)
    info = only(flaky)
    proxy.pending[fault, "GET"] = 5
    flaky.get_to_file(info, tmp_path / "copy")
    assert proxy.pending[fault, "GET"] == 0
    assert (tmp_path / "copy").read_bytes() == DATA


def test_a_connection_that_never_mends_leaves_no_file(
    flaky: ObjectStore, proxy: FlakyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.001)
    flaky.put_if_absent("a", DATA)
    info = only(flaky)
    proxy.pending["truncate", "GET"] = 1000
    with pytest.raises(StoreError, match="a could not be read"):
        flaky.get_to_file(info, tmp_path / "copy")
    assert list(tmp_path.iterdir()) == []


def test_after_a_failure_no_range_is_begun(tmp_path: Path) -> None:
    begun = []

    def read(start: int, end: int) -> bytes:
        begun.append(start)
        raise OSError(errno.EIO, "gone")

    with pytest.raises(OSError, match="gone"):
        download(read, 1000 * RANGE_BYTES, tmp_path / "copy")
    assert len(begun) <= RANGES_AT_ONCE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("range_bytes", [2 * 2**20, pytest.param(TRUE_RANGE_BYTES, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_object(s3_endpoint: S3Endpoint, tmp_path: Path, range_bytes: int) -> None:
    fs = connect(s3_endpoint)
    fs.mkdirs("large", exist_ok=True)
    ranges = 8 * RANGES_AT_ONCE
    with fs.open("large/weights", "wb", block_size=2 * TRUE_RANGE_BYTES) as file:
        for number in range(ranges):
            file.write(bytes([number]) * range_bytes)
    script = """
import resource, sys
from pathlib import Path
from pipeline.config import StoreConfig
from pipeline.store.objects import ObjectStore
range_bytes, endpoint, key, secret, path = sys.argv[1:]
sys.modules["pipeline.store.download"].RANGE_BYTES = int(range_bytes)
options = {"endpoint_url": endpoint, "key": key, "secret": secret}
store = ObjectStore("s3://large", StoreConfig(storage_options=options))
(info,) = store.list("")
store.get_range("weights", 0, 1000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.get_to_file(info, Path(path))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""
    command = [sys.executable, "-c", script, str(range_bytes), *s3_endpoint, str(tmp_path / "copy")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    # A range is held twice while its body is joined.
    assert int(done.stdout) < 3 * RANGES_AT_ONCE * range_bytes < ranges * range_bytes / 2
    expected = hashlib.sha256()
    for number in range(ranges):
        expected.update(bytes([number]) * range_bytes)
    with (tmp_path / "copy").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == expected.digest()
