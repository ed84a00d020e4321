"""Who is blamed for a dead worker, and that careful calls are alone in theirs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import EngineConfig, RunConfig, StoreConfig
from pipeline.engines.fake import Fake
from pipeline.engines.runner import MemoryBudget
from pipeline.errors import EngineDead, StoreError
from pipeline.records import Chunk, DecodedShard, DecodedWindow, Recording, Shard, Window
from pipeline.runtime.crashes import CrashJournal, Turns, deadly, transcribe_carefully
from pipeline.store.objects import ObjectStore


def attempt(store: ObjectStore, *chunks: int, through: bool = False) -> None:
    """An attempt that began these chunks, and broke off with the last of them or got through."""
    journal = CrashJournal(store, "00001-abcdef01")
    for chunk in chunks:
        journal.begin(chunk)
    if through:
        journal.end()


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path), StoreConfig())


def known(store: ObjectStore) -> frozenset[int]:
    return CrashJournal(store, "00001-abcdef01").poisonous()


def test_two_deaths_over_a_chunk_make_it_poison(store: ObjectStore) -> None:
    assert known(store) == frozenset()
    attempt(store, 0, 1, 2)
    assert known(store) == frozenset(), "one death may be the machine's own"
    attempt(store, 0, 1, 2)
    assert known(store) == {2}
    attempt(store, 0, 1, 3, 4)
    attempt(store, 0, 1, 3, 4)
    assert known(store) == {2, 4}


def test_an_attempt_that_got_through_blames_nobody(store: ObjectStore) -> None:
    attempt(store, 0, 1, 2, through=True)
    attempt(store, 0, 1, 2, through=True)
    assert known(store) == frozenset()


class FullStore(ObjectStore):
    """Takes notes until it is full."""

    def __init__(self, uri: str, room: int) -> None:
        super().__init__(uri, StoreConfig())
        self.room = room

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Fails where there is no more room, except for the word that all is over."""
        self.room -= 1
        if self.room < 0 and not key.endswith("-end"):
            raise StoreError("The disk is full.")
        return super().put_if_absent(key, data)


def three_chunks() -> DecodedShard:
    window = Window(Recording("a", "/a"), 0, 1, 0.0, 3.0)
    chunks = tuple(Chunk(0, number, number, number + 1.0, 16_000 * number, 16_000) for number in range(3))
    noise = np.random.default_rng(0).integers(-9000, 9000, 48_000, np.int16)
    return DecodedShard(Shard("00001-abcdef01", 0, (window,), 3.0), (DecodedWindow(0.0, 3.0),), chunks, noise)


def test_a_store_that_fails_blames_no_chunk(tmp_path: Path, store: ObjectStore) -> None:
    config = RunConfig(manifest="m", output="o")
    for _ in range(2):
        journal = CrashJournal(FullStore(str(tmp_path), room=2), "00001-abcdef01")
        with pytest.raises(StoreError):
            transcribe_carefully(three_chunks(), Fake(EngineConfig(name="fake")), config, MemoryBudget(), journal)
    assert known(store) == frozenset()


def test_a_dead_device_blames_the_chunk_that_it_died_of(store: ObjectStore) -> None:
    config = RunConfig(manifest="m", output="o")
    for _ in range(2):
        engine = Fake(EngineConfig(name="fake", options={"die_on_call": 2}))
        journal = CrashJournal(store, "00001-abcdef01")
        with pytest.raises(EngineDead):
            transcribe_carefully(three_chunks(), engine, config, MemoryBudget(), journal)
    assert known(store) == {1}


def test_other_shards_are_no_witnesses(store: ObjectStore) -> None:
    for shard_id in ("00002-00000000", "00003-00000000"):
        CrashJournal(store, shard_id).begin(7)
    assert known(store) == frozenset()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=8), st.randoms())
def test_the_order_of_a_listing_does_not_matter(attempts: list[tuple[int, bool]], random: object) -> None:
    keys, deaths = [], [last for last, through in attempts if not through]
    for number, (last, through) in enumerate(attempts):
        notes = [f"c{chunk}" for chunk in range(last + 1)] + ["end"] * through
        keys += [f"attempts/s/{number:012x}/{at:05d}-{note}" for at, note in enumerate(notes)]
    random.shuffle(keys)  # type: ignore[attr-defined]
    assert deadly(keys) == {chunk for chunk in deaths if deaths.count(chunk) >= 2}


@pytest.mark.parametrize("careful", [0, 3, None])
def test_a_careful_call_is_alone_and_others_share(careful: int | None) -> None:
    turns, lock = Turns(careful), threading.Lock()
    inside: list[bool] = []
    crowd: list[tuple[bool, int]] = []

    def call() -> None:
        with turns.turn() as is_careful:
            with lock:
                inside.append(is_careful)
                crowd.append((any(inside), len(inside)))
            time.sleep(0.02)
            with lock:
                inside.remove(is_careful)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(count == 1 for is_careful, count in crowd if is_careful)
    assert sum(is_careful for is_careful, _ in crowd) == (8 if careful is None else careful)
    if careful == 0:
        assert max(count for _, count in crowd) > 1


def test_other_work_of_the_process_waits_for_a_careful_call_and_it_for_that() -> None:
    """Or a death while another shard is published would be held against the chunk that was being heard."""
    turns, log = Turns(None), list[str]()
    publishing, careful = threading.Event(), threading.Event()

    def publish() -> None:
        with turns.beside():
            publishing.set()
            time.sleep(0.1)
            log.append("published")

    def hear() -> None:
        publishing.wait()
        with turns.turn():
            careful.set()
            time.sleep(0.1)
            log.append("heard")

    def publish_later() -> None:
        careful.wait()
        with turns.beside():
            log.append("published later")

    threads = [threading.Thread(target=work) for work in (publish, hear, publish_later)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert log == ["published", "heard", "published later"]


def test_a_call_that_fails_gives_its_turn_back() -> None:
    turns = Turns(1)
    with pytest.raises(ValueError, match="broken"), turns.turn():
        raise ValueError("broken")
    with turns.turn() as careful:
        assert not careful
