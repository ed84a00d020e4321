"""The store's contract on a local folder, on two S3 servers and, where it can hold, on fsspec's memory; and its bad days."""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_proxy import FlakyProxy, flaky_proxy
from servers import S3Endpoint, connect

from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store import objects, remote_folder
from pipeline.store.base import is_key
from pipeline.store.objects import ObjectStore, StoreKeyMissing
from pipeline.store.s3_folder import S3Folder

MIB = 2**20
ATOMIC = ["local", "moto", "seaweed"]


def s3_store(endpoint: S3Endpoint, **changes: object) -> ObjectStore:
    connect(endpoint).mkdirs("store-tests", exist_ok=True)
    options = {**endpoint.storage_options(), **changes}
    return ObjectStore.open(f"s3://store-tests/{uuid4().hex}", StoreConfig(storage_options=options))


def make_store(kind: str, request: pytest.FixtureRequest) -> ObjectStore:
    if kind == "local":
        return ObjectStore.open(str(request.getfixturevalue("tmp_path") / "out"), StoreConfig())
    if kind == "memory":
        return ObjectStore.open(f"memory://{uuid4().hex}/out", StoreConfig())
    return s3_store(request.getfixturevalue({"moto": "moto_endpoint", "seaweed": "s3_endpoint"}[kind]))


@pytest.fixture(params=[*ATOMIC, "memory"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    return make_store(request.param, request)


@pytest.fixture(params=ATOMIC)
def atomic_store(request: pytest.FixtureRequest) -> ObjectStore:
    return make_store(request.param, request)


@pytest.fixture
def proxy(moto_endpoint: S3Endpoint) -> Iterator[FlakyProxy]:
    with flaky_proxy(moto_endpoint.endpoint_url) as running:
        yield running


@pytest.fixture
def flaky(proxy: FlakyProxy, moto_endpoint: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    monkeypatch.setattr(remote_folder, "FIRST_PAUSE_S", 0.001)
    return s3_store(moto_endpoint, endpoint_url=proxy.url)


def test_what_is_put_can_be_listed_and_read(store: ObjectStore) -> None:
    assert list(store.list("")) == []
    contents = {"parts/0a/x.parquet": b"one", "parts/0b/y.parquet": b"", "plan.json": b"{}"}
    for key, data in contents.items():
        assert not store.exists(key)
        assert store.put_if_absent(key, data)
        assert store.exists(key)
        assert {info.key: info.size_bytes for info in store.list("")}[key] == len(data)
    assert {info.key for info in store.list("parts")} == {info.key for info in store.list("parts/")}
    assert {info.key for info in store.list("parts")} == {"parts/0a/x.parquet", "parts/0b/y.parquet"}
    assert {key: store.get(key) for key in contents} == contents


def test_a_prefix_is_a_folder_not_a_string(store: ObjectStore) -> None:
    store.put_if_absent("parts/a", b"1")
    store.put_if_absent("parts-old/a", b"1")
    assert [info.key for info in store.list("parts")] == ["parts/a"]
    assert list(store.list("par")) == []
    assert not store.exists("parts")


def test_a_taken_key_stays_as_it_is(store: ObjectStore) -> None:
    assert store.put_if_absent("a", b"first")
    assert not store.put_if_absent("a", b"second")
    assert not store.put_if_absent("a", b"first")
    assert store.get("a") == b"first"
    assert [info.key for info in store.list("")] == ["a"]


def test_a_missing_object_is_said_to_be_missing(store: ObjectStore) -> None:
    for read in (store.get, store.open_file):
        with pytest.raises(StoreKeyMissing, match=r"There is no object .*no/such"):
            read("no/such")
    assert not store.exists("no/such")
    assert list(store.list("no/such")) == []


def test_the_etag_follows_the_bytes(atomic_store: ObjectStore) -> None:
    atomic_store.put_if_absent("a", b"first")
    atomic_store.put_if_absent("b", b"second one")
    etags = [info.etag for info in atomic_store.list("")]
    assert None not in etags
    assert len(set(etags)) == 2
    assert [info.etag for info in atomic_store.list("")] == etags


def test_exactly_one_of_eight_writers_wins(atomic_store: ObjectStore) -> None:
    writers = [pickle.loads(pickle.dumps(atomic_store)) for _ in range(8)]
    barrier = Barrier(8)

    def write(number: int) -> bool:
        writers[number].exists("race")  # connected before the start
        barrier.wait()
        return writers[number].put_if_absent("race", bytes([number]) * 100_000)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(8)))
    assert sum(won) == 1
    assert atomic_store.get("race") == bytes([won.index(True)]) * 100_000


def test_writers_of_the_same_bytes_have_one_winner_too(atomic_store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: atomic_store.put_if_absent("same", b"x" * 100_000), range(8)))
    assert sum(won) == 1


def test_a_large_object_arrives_whole(atomic_store: ObjectStore) -> None:
    data = np.random.default_rng(7).bytes(
        60 * MIB
    )  # above s3fs's part size of 50 MiB, below the 100 MiB where it splits
    assert atomic_store.put_if_absent("large", data)
    assert not atomic_store.put_if_absent("large", b"late")
    assert atomic_store.get("large") == data


@pytest.mark.slow
def test_above_100_mib_the_last_step_of_a_multipart_upload_is_the_conditional_one(atomic_store: ObjectStore) -> None:
    objects_ = [bytes([number]) * (101 * MIB) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(lambda data: atomic_store.put_if_absent("huge", data), objects_))
    assert sorted(won) == [False, True]
    assert atomic_store.get("huge") == objects_[won.index(True)]


def test_listings_go_on_after_the_first_page(atomic_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_page = S3Folder._page
    monkeypatch.setattr(S3Folder, "_page", lambda self, folder, **more: whole_page(self, folder, MaxKeys=7, **more))
    keys = {f"parts/{number % 4}/{number:04d}" for number in range(30)}
    for key in keys:
        atomic_store.put_if_absent(key, b"x")
    assert sorted(info.key for info in atomic_store.list("parts")) == sorted(keys)


def test_pyarrow_reads_ranges(store: ObjectStore) -> None:
    table = pa.table({"id": np.arange(50_000), "noise": np.random.default_rng(1).random(50_000)})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=10_000)
    store.put_if_absent("t.parquet", sink.getvalue().to_pybytes())
    with store.open_file("t.parquet") as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(3, columns=["id"])["id"].to_pylist() == list(range(30_000, 40_000))
        assert parquet.read().equals(table)


def test_reading_a_column_does_not_fetch_the_object(flaky: ObjectStore, proxy: FlakyProxy) -> None:
    table = pa.table(
        {"id": np.arange(1000), "noise": np.random.default_rng(1).random(500_000).reshape(1000, 500).tolist()}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    flaky.put_if_absent("t.parquet", sink.getvalue().to_pybytes())
    proxy.sent_bytes = 0
    with flaky.open_file("t.parquet") as file:
        assert pq.read_table(file, columns=["id"]).num_rows == 1000
    assert proxy.sent_bytes < sink.getvalue().size / 4


def test_a_range_reader_behaves_as_a_file(store: ObjectStore) -> None:
    data = np.random.default_rng(3).bytes(700_000)
    store.put_if_absent("f", data)
    with store.open_file("f") as file:
        assert (file.seekable(), file.readable(), file.tell()) == (True, True, 0)
        assert file.seek(-10, os.SEEK_END) == 699_990
        assert file.read(100) == data[-10:]
        assert file.read() == b""
        file.seek(1000)
        file.seek(500, os.SEEK_CUR)
        assert file.read(300_000) == data[1500:301_500]
        assert file.read() == data[301_500:]


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "../a",
        "a/../b",
        "a/..",
        ".",
        ".hidden",
        "a/.tmp",
        "a b",
        "ä",
        "a\n",
        "a?b",
        "a%2fb",
        "s3://b/c",
    ],
)
def test_strange_keys_are_refused(tmp_path: Path, key: str) -> None:
    store = ObjectStore.open(str(tmp_path / "out"), StoreConfig())
    assert not is_key(key)
    for use in (store.get, store.exists, store.open_file, lambda name: store.put_if_absent(name, b"")):
        with pytest.raises(ValueError, match="cannot be a key"):
            use(key)
    if key not in ("", "a/"):
        with pytest.raises(ValueError, match="cannot be a key"):
            store.list(key)
    assert not (tmp_path / "out").exists()


def test_a_store_pickles_without_its_connection(store: ObjectStore) -> None:
    store.put_if_absent("a", b"1")
    packed = pickle.dumps(store)
    assert len(packed) < 1000
    assert pickle.loads(packed).get("a") == b"1"


def test_the_write_check_leaves_nothing_behind(store: ObjectStore) -> None:
    store.check_writable()
    assert list(store.list("")) == []


# --- bad days: local


_WRITER = """
import os, signal, sys
from pipeline.config import StoreConfig
from pipeline.store.objects import ObjectStore
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
    assert list(root.glob("parts/.*.tmp")), "the kill came between two writes"
    listed = list(store.list(""))
    assert all(info.size_bytes == 30_000_000 for info in listed)
    if moment != "while writing":
        assert listed == []
    assert store.put_if_absent("parts/99", b"next")


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    script = """
import resource, sys
from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store.objects import ObjectStore
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
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(StoreError, match="could not be written"):
        ObjectStore.open(str(tmp_path), StoreConfig()).put_if_absent("a", b"1")
    store = ObjectStore.open(str(tmp_path), StoreConfig(conditional_put=False))
    assert store.put_if_absent("a", b"1")
    assert not store.put_if_absent("a", b"2")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


# --- bad days: S3


@pytest.mark.parametrize("fault", ["lose", "reset"])
def test_our_own_put_is_ours_although_the_answer_was_lost(flaky: ObjectStore, proxy: FlakyProxy, fault: str) -> None:
    proxy.pending[fault, "PUT"] = 2
    assert flaky.put_if_absent("a", b"ours")
    assert proxy.requests["PUT"] == 3
    assert flaky.get("a") == b"ours"


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
    monkeypatch.setattr(remote_folder, "LONGEST_PAUSE_S", 0.01)
    proxy.pending["refuse", "PUT"] = 1000
    with pytest.raises(StoreError, match="a could not be written"):
        flaky.put_if_absent("a", b"x")
    assert proxy.requests["PUT"] == remote_folder.ATTEMPTS


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
