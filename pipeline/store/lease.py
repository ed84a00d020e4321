"""A run lock in the store: one holder at a time, taken over when its holder has been silent for longer than it promised.

<root>/lease/000012.json        one object per change of hands, put if absent: {"owner": …, "lease_s": …}, or {} for "free"
<root>/lease/000012/beat-0003   the holder's signs of life, every third of `lease_s`; removed when it lets go

The lock saves work. Nothing is right or wrong by it: parts are put if absent, so two drivers at once are harmless. No clocks of
two machines are compared: how old a sign of life is, the store says, by the time it gives an object that was put just now. Where
a store gives no times, it is watched for as long as the holder promised. A holder that slept through its lease finds the next
number taken and stops (`Lease.lost`); it cannot write into its successor's tenure.

Without put-if-absent (`store.conditional_put: false`) two that take it in the same moment are told apart by reading back what
stays; in the worst case both run.
"""

from __future__ import annotations

import json
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from uuid import uuid4

from pipeline.errors import StoreError
from pipeline.store.ledger import read_json
from pipeline.store.objects import ObjectStore

_CHANGE = re.compile(r"lease/\d{6}\.json")
_GRAIN_S = 2.0  # stores tell times in whole seconds
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has the lock."""

    owner: str
    number: int
    silent_s: float | None  # since its last sign of life, by the store's clock; None: the store does not tell
    lease_s: float
    beats: int

    def is_gone(self, silent_s: float) -> bool:
        """Whether it has been silent for longer than it promised."""
        return has_gone(silent_s, self.lease_s)


class Lease:
    """The lock, held. Signs of life go out from a thread of their own until `release`.

    `on_lost` is called in that thread when another has taken over.
    """

    def __init__(self, store: ObjectStore, number: int, lease_s: float) -> None:
        self.number, self.lost = number, False
        self._store, self._lease_s = store, lease_s
        self._beats: list[str] = []
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, on_lost: Callable[[], None] = lambda: None) -> None:
        """Begin to give signs of life."""
        self._thread = threading.Thread(target=self._beat, args=(on_lost,), name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Let go, so that the next one need not wait. A store that is away is no error: the lease runs out by itself."""
        self._ended.set()
        if self._thread:
            self._thread.join(self._lease_s)
        try:
            self._store.put_if_absent(_key(self.number + 1), b"{}")
        except StoreError:
            return
        for key in self._beats:
            self._store.discard(key)

    def _beat(self, on_lost: Callable[[], None]) -> None:
        while not self._ended.wait(self._lease_s / 3):
            try:
                if self._store.exists(_key(self.number + 1)):
                    self.lost = True
                    on_lost()
                    return
                key = f"lease/{self.number:06d}/beat-{len(self._beats):06d}"
                self._store.put_if_absent(key, b"")
                self._beats.append(key)
            except StoreError:
                continue  # it is away: nobody can take over meanwhile either


def take_lease(store: ObjectStore, lease_s: float, wait_s: float = 0.0) -> Lease | Holder:
    """The lock, or who has it after `wait_s` seconds. A holder that is gone is replaced. Raises StoreError."""
    began = time.monotonic()
    seen: Holder | None = None
    seen_at = began
    while True:
        number, holder = _look(store)
        now = time.monotonic()
        if holder is None:
            gone = True
        else:
            if seen is None or (seen.number, seen.beats) != (holder.number, holder.beats):
                alive, seen, seen_at = seen is not None, holder, now
            else:
                alive = False
            gone = holder.is_gone(now - seen_at if holder.silent_s is None else holder.silent_s)
            sure = holder.silent_s is not None or alive
            if not gone and sure and now - began >= wait_s:
                return holder
        if not gone:
            time.sleep(min(_LOOK_EVERY_S, lease_s / 10))
        elif lease := _claim(store, number + 1, lease_s):
            if holder is not None:
                _sweep(store, holder.number)
            return lease


def has_gone(silent_s: float, lease_s: float) -> bool:
    """Whether a holder that promised a sign of life every `lease_s` seconds has been silent for longer."""
    return silent_s > lease_s + _GRAIN_S


def tenure_of(keys: Collection[str]) -> tuple[str | None, list[str]]:
    """From a listing, for those who only look: the key of the latest change of hands, and it and the signs of life since."""
    taken = sorted(key for key in keys if _CHANGE.fullmatch(key))
    if not taken:
        return None, []
    beats = f"{taken[-1].removesuffix('.json')}/beat-"
    return taken[-1], [taken[-1], *(key for key in keys if key.startswith(beats))]


def _look(store: ObjectStore) -> tuple[int, Holder | None]:
    """The number of the latest change of hands (-1: there was none), and who has the lock since."""
    times = {
        int(stem): info.modified_s
        for info in store.list("lease", deep=False)
        if (stem := info.key.removeprefix("lease/").removesuffix(".json")).isdecimal()
    }
    if not times:
        return -1, None
    number = max(times)
    found = read_json(store, _key(number))
    if not found:
        return number, None
    signs, now_s = _signs_of_life(store, number)
    known = [time_s for time_s in (times[number], *signs) if time_s is not None]
    silent_s = None if now_s is None or not known else now_s - max(known)
    return number, Holder(str(found["owner"]), number, silent_s, float(found["lease_s"]), len(signs))


def _signs_of_life(store: ObjectStore, number: int) -> tuple[list[float | None], float | None]:
    """When each sign of life of a tenure was given, and what time it is for the store: that of an object put just now."""
    question = f"lease/{number:06d}/now-{uuid4().hex}"
    store.put_if_absent(question, b"")
    times = {info.key: info.modified_s for info in store.list(f"lease/{number:06d}", deep=False)}
    store.discard(question)
    return [time_s for key, time_s in times.items() if "/beat-" in key], times.get(question)


def _claim(store: ObjectStore, number: int, lease_s: float) -> Lease | None:
    owner = f"{platform.node() or 'somewhere'}, process {os.getpid()}, {uuid4().hex[:8]}"
    claim = json.dumps({"owner": owner, "lease_s": lease_s}).encode()
    # Read back: without put-if-absent the last writer's words stay, and he has the lock.
    if store.put_if_absent(_key(number), claim) and store.get(_key(number)) == claim:
        return Lease(store, number, lease_s)
    return None


def _sweep(store: ObjectStore, number: int) -> None:
    for info in store.list(f"lease/{number:06d}", deep=False):
        store.discard(info.key)


def _key(number: int) -> str:
    return f"lease/{number:06d}.json"
