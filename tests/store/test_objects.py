"""The store's contract on a local folder, on two S3 servers and, where it can hold, on fsspec's memory."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_proxy import FlakyProxy

from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store import s3_folder
from pipeline.store.base import is_key
from pipeline.store.objects import ObjectStore, StoreKeyMissing
from pipeline.store.s3_folder import S3Folder

MIB = 2**20


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


def test_a_file_is_put_as_its_bytes_are(
    atomic_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_folder, "_PART_BYTES", 5 * MIB)  # the least that S3 takes
    files = [tmp_path / str(number) for number in range(2)]
    for number, file in enumerate(files):
        file.write_bytes(np.random.default_rng(number).bytes(12 * MIB))
    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(lambda file: atomic_store.put_if_absent("plan", file), files))
    assert sorted(won) == [False, True]
    assert b"".join(atomic_store.blocks("plan")) == files[won.index(True)].read_bytes()
    (tmp_path / "small").write_bytes(b"few")
    assert atomic_store.put_if_absent("small", tmp_path / "small")
    assert not atomic_store.put_if_absent("small", files[0])
    assert atomic_store.get("small") == b"few"


@pytest.mark.slow
def test_above_100_mib_the_last_step_of_the_upload_is_the_conditional_one(atomic_store: ObjectStore) -> None:
    contents = [bytes([number]) * (101 * MIB) for number in range(2)]
    with ThreadPoolExecutor(2) as pool:
        won = list(pool.map(lambda data: atomic_store.put_if_absent("huge", data), contents))
    assert sorted(won) == [False, True]
    assert atomic_store.get("huge") == contents[won.index(True)]


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


def test_a_password_in_the_uri_is_not_repeated() -> None:
    with pytest.raises(StoreError, match=r"^s3://bucket/x could not be opened") as error:
        ObjectStore.open("s3://name:CANARY@bucket/x", StoreConfig())
    assert "CANARY" not in str(error.value)
