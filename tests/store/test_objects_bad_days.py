"""The store when things go wrong: killed writers, full disks, and a server that refuses, loses, resets and cuts off."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flaky_proxy import FlakyProxy
from servers import S3Endpoint, connect
from stores import s3_store

from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store import objects, patience, s3_folder
from pipeline.store.objects import ObjectStore
from pipeline.store.s3_folder import S3Folder

_WRITER = """
import os, signal, sys
from pipeline.config import StoreConfig
from pipeline.store.objects import ObjectStore
from pipeline.store.s3_folder import S3Folder
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] in ("fsync", "link"):
    setattr(os, sys.argv[2], die)
store = ObjectStore.open(sys.argv[1], StoreConfig())
for number in range(100):
    store.put_if_absent(f"parts/{number}", b"x" * 30_000_000)
"""


@pytest.mark.parametrize("moment", ["fsync", "link", "while writing"])
def test_a_writer_killed_leaves_whole_objects_or_none(tmp_path: Path, moment: str) -> None:
    root = tmp_path / "out"
    process = subprocess.Popen([sys.executable, "-c", _WRITER, str(root), moment])
    if moment == "while writing":
        deadline = time.monotonic() + 30
        while not list(root.glob("parts/.*.tmp")) and time.monotonic() < deadline:
            time.sleep(0.0005)
        process.kill()
    assert process.wait(30) == -signal.SIGKILL
    store = ObjectStore.open(str(root), StoreConfig())
    listed = list(store.list(""))
    assert all(info.size_bytes == 30_000_000 for info in listed)
    if moment != "while writing":  # that one may, on a busy machine, come between two writes
        assert list(root.glob("parts/.*.tmp"))
        assert listed == []
    assert store.put_if_absent("parts/99", b"next")


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    script = """
import resource, sys
from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store.objects import ObjectStore
from pipeline.store.s3_folder import S3Folder
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
store = ObjectStore.open(sys.argv[1], StoreConfig())
try:
    store.put_if_absent("parts/a", b"x" * 200_000)
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "parts/a could not be written" in done.stdout
    assert list((tmp_path / "parts").iterdir()) == []


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for root in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(StoreError, match="could not be opened"):
            ObjectStore.open(str(root), StoreConfig())


def test_without_hard_links_a_rename_publishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="has no hard links"):
        ObjectStore.open(str(tmp_path), StoreConfig()).put_if_absent("a", b"1")
    store = ObjectStore.open(str(tmp_path), StoreConfig(conditional_put=False))
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("fault", ["lose", "reset"])
def test_our_own_put_is_ours_although_the_answer_was_lost(flaky: ObjectStore, proxy: FlakyProxy, fault: str) -> None:
    proxy.pending[fault, "PUT"] = 2
    assert flaky.put_if_absent("a", b"ours")
    assert proxy.requests["PUT"] == 3
    assert flaky.get("a") == b"ours"


def test_a_large_file_is_ours_although_the_last_answer_was_lost(
    flaky: ObjectStore, proxy: FlakyProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_folder, "_PART_BYTES", 5 * 2**20)
    path, upload = tmp_path / "plan", S3Folder._upload
    path.write_bytes(np.random.default_rng(6).bytes(11 * 2**20))

    def then_bad_weather(self: S3Folder, place: dict[str, str], file: Path) -> list[dict[str, Any]]:
        parts = upload(self, place, file)
        proxy.pending["lose", "POST"] = 1
        return parts

    monkeypatch.setattr(S3Folder, "_upload", then_bad_weather)
    proxy.pending["refuse", "PUT"] = 2
    assert flaky.put_if_absent("a", path)
    assert proxy.requests["PUT"] == 5  # a part that was refused is put again, not the whole file
    folder = flaky._folder
    assert isinstance(folder, S3Folder)
    assert folder._holds("a", path)
    for other in (path.read_bytes()[:-1], path.read_bytes() + b"x", b"x" * 11 * 2**20):
        path.write_bytes(other)
        assert not folder._holds("a", path)


def test_anothers_put_is_not_ours_after_an_unclear_answer(
    flaky: ObjectStore, proxy: FlakyProxy, moto_endpoint: S3Endpoint
) -> None:
    connect(moto_endpoint).pipe_file(f"{flaky.uri}/a", b"theirs")
    proxy.pending["lose", "PUT"] = 1
    assert not flaky.put_if_absent("a", b"ours")
    assert flaky.get("a") == b"theirs"


def test_refused_and_cut_off_requests_are_tried_again(flaky: ObjectStore, proxy: FlakyProxy) -> None:
    data = np.random.default_rng(5).bytes(400_000)
    proxy.pending["refuse", "PUT"] = 7
    assert flaky.put_if_absent("a", data)
    for fault in ("refuse", "reset", "truncate"):
        proxy.pending[fault, "GET"] = proxy.pending[fault, "HEAD"] = 1
        assert flaky.get("a") == data
        proxy.pending[fault, "GET"] = proxy.pending[fault, "HEAD"] = 2
        with flaky.open_file("a") as file:
            assert file.read() == data
    proxy.pending["refuse", "GET"] = 3
    assert [info.key for info in flaky.list("")] == ["a"]


def test_a_store_that_stays_broken_is_given_up(
    flaky: ObjectStore, proxy: FlakyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.01)
    proxy.pending["refuse", "PUT"] = 1000
    with pytest.raises(StoreError, match="a could not be written"):
        flaky.put_if_absent("a", b"x")
    assert proxy.requests["PUT"] == patience.ATTEMPTS


def test_a_final_answer_is_not_asked_for_again(flaky: ObjectStore, proxy: FlakyProxy) -> None:
    assert flaky.put_if_absent("a", b"1")
    assert not flaky.put_if_absent("a", b"1")
    assert proxy.requests["PUT"] == 2


def test_a_store_without_conditional_puts_is_found_out(
    flaky: ObjectStore, proxy: FlakyProxy, moto_endpoint: S3Endpoint
) -> None:
    proxy.ignore_conditions = True
    with pytest.raises(StoreError, match="conditional_put=false"):
        flaky.check_writable()
    options = {**moto_endpoint.storage_options(), "endpoint_url": proxy.url}
    plain = ObjectStore(flaky.uri, StoreConfig(storage_options=options, conditional_put=False))
    plain.check_writable()
    assert plain.put_if_absent("a", b"1")
    assert not plain.put_if_absent("a", b"2")


def test_no_such_bucket(moto_endpoint: S3Endpoint) -> None:
    with pytest.raises(StoreError, match=r"There is no bucket for s3://nowhere/out; create it"):
        ObjectStore.open("s3://nowhere/out", StoreConfig(storage_options=moto_endpoint.storage_options()))


@pytest.mark.parametrize("wrong", ["key", "secret"])
def test_bad_credentials_are_named_and_not_shown(s3_endpoint: S3Endpoint, wrong: str) -> None:
    with pytest.raises(StoreError, match="check the credentials") as caught:
        s3_store(s3_endpoint, **{wrong: "canary-0451"})
    assert "canary-0451" not in str(caught.value)


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(StoreError, match=r"s3://b/out could not be opened .*Could not connect"):
        ObjectStore.open(
            "s3://b/out", StoreConfig(storage_options={"endpoint_url": endpoint, "key": "k", "secret": "s"})
        )
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("timeout_s", [0.5, pytest.param(objects.OPEN_TIMEOUT_S, marks=pytest.mark.slow)])
def test_somebody_listens_and_never_answers(monkeypatch: pytest.MonkeyPatch, timeout_s: float) -> None:
    monkeypatch.setattr(objects, "OPEN_TIMEOUT_S", timeout_s)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        options = {"endpoint_url": f"http://127.0.0.1:{mute.getsockname()[1]}", "key": "k", "secret": "s"}
        started = time.monotonic()
        with pytest.raises(StoreError, match="could not be opened"):
            ObjectStore.open("s3://b/out", StoreConfig(storage_options=options))
    assert time.monotonic() - started < 16


def test_an_unknown_scheme_says_so() -> None:
    with pytest.raises(StoreError, match="nosuch://b could not be opened"):
        ObjectStore.open("nosuch://b", StoreConfig())


def test_a_password_in_the_uri_is_not_shown() -> None:
    store = ObjectStore("sftp://user:canary@host/out?token=canary", StoreConfig())
    assert not re.search("canary|user", str(store))
    assert str(store) == "sftp://host/out"
