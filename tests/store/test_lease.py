"""The run lock: one holder, told apart from a dead one by the store's clock, taken over once, harmless when it comes back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.config import StoreConfig
from pipeline.errors import StoreAwayError
from pipeline.store import lease as module
from pipeline.store.base import ObjectInfo
from pipeline.store.lease import Holder, Lease, take_lease
from pipeline.store.objects import ObjectStore


@pytest.fixture(autouse=True)
def finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local folders and memory tell times to the millisecond."""
    monkeypatch.setattr(module, "_GRAIN_S", 0.1)


def taken(store: ObjectStore, lease_s: float = 30.0, wait_s: float = 0.0) -> Lease:
    found = take_lease(store, lease_s, wait_s)
    assert isinstance(found, Lease)
    return found


def test_the_second_is_told_who_has_it_and_gets_it_when_it_is_let_go(store: ObjectStore) -> None:
    first = taken(store)
    second = take_lease(store, 30.0)
    assert isinstance(second, Holder)
    assert f"process {os.getpid()}" in second.owner
    assert second.number == first.number == 0
    first.release()
    again = taken(store)
    assert again.number == 2
    again.release()
    left = {info.key for info in store.list("lease")}
    assert left == {f"lease/{number:06d}.json" for number in range(4)}, "signs of life and questions stay behind"


def test_of_many_at_once_one_gets_it(atomic_store: ObjectStore) -> None:
    barrier = threading.Barrier(8)

    def take(_: int) -> Lease | Holder:
        store = ObjectStore(atomic_store.uri, atomic_store._config)
        barrier.wait()
        return take_lease(store, 30.0)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(take, range(8)))
    assert sum(isinstance(one, Lease) for one in found) == 1


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path), StoreConfig())


def test_a_holder_that_gives_signs_of_life_keeps_it(local: ObjectStore) -> None:
    lease = taken(local, lease_s=0.6)
    lease.keep()
    time.sleep(1.2)
    assert isinstance(take_lease(local, 0.6), Holder)
    assert not lease.lost
    lease.release()


def test_a_dead_holder_is_replaced_and_finds_out_if_it_was_only_asleep(local: ObjectStore) -> None:
    dead = taken(local, lease_s=0.6)
    assert isinstance(take_lease(local, 0.6), Holder)
    waited_for = taken(local, lease_s=30.0, wait_s=5.0)  # its own promise counts, not ours
    assert waited_for.number == dead.number + 1
    told = threading.Event()
    dead.keep(told.set)  # it wakes up
    assert told.wait(5)
    assert dead.lost
    dead.release()
    assert isinstance(take_lease(local, 0.6), Holder), "the sleeper let go of what was not its own"


@pytest.mark.parametrize("off_s", [-86_400.0, 86_400.0])
def test_the_clock_of_this_machine_has_no_say(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch, off_s: float
) -> None:
    lease = taken(local)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + off_s)
    assert isinstance(take_lease(local, 30.0), Holder)
    lease.release()


@pytest.fixture
def timeless(local: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    """A store whose listings tell no times."""
    real = ObjectStore.list

    def listed(self: ObjectStore, prefix: str, deep: bool = True) -> Iterator[ObjectInfo]:
        return (replace(info, modified_s=None) for info in real(self, prefix, deep))

    monkeypatch.setattr(ObjectStore, "list", listed)
    return local


def test_without_times_a_holder_is_watched(timeless: ObjectStore) -> None:
    alive = taken(timeless, lease_s=0.6)
    alive.keep()
    assert isinstance(take_lease(timeless, 0.6), Holder)
    alive._ended.set()
    began = time.monotonic()
    taken(timeless, wait_s=10.0)
    assert time.monotonic() - began > 0.6


def test_without_put_if_absent_the_one_whose_words_stay_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ObjectStore(str(tmp_path), StoreConfig(conditional_put=False))
    real = ObjectStore.put_if_absent

    def overwritten(self: ObjectStore, key: str, data: bytes) -> bool:
        wrote = real(self, key, data)
        (tmp_path / key).write_bytes(b'{"owner": "a faster one", "lease_s": 30}')
        return wrote

    monkeypatch.setattr(ObjectStore, "put_if_absent", overwritten)
    found = take_lease(store, 30.0)
    assert isinstance(found, Holder)
    assert found.owner == "a faster one"


def test_a_store_that_is_away_costs_neither_the_holder_nor_its_end(
    local: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = taken(local, lease_s=0.3)

    def away(*_: object) -> bool:
        raise StoreAwayError("away")

    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put_if_absent", away)
        lease.keep()
        time.sleep(0.3)
        lease.release()
    assert not lease.lost
