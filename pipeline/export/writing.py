"""Putting an export's files: several at once, none twice, nothing overwritten.

What the files are is put first, as `_export-<format>.json`: an export that was cut short goes on in its folder, another one is
refused there. Which recording went where is in `_index-<format>-00000.jsonl` and so on.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Literal

from pipeline.errors import RunError
from pipeline.store.objects import ObjectStore

FILE_BYTES = 64 * 2**20  # of files that hold many recordings
INDEX_ROWS = 50_000
_AT_ONCE = 16
_WAITING, _WAITING_BYTES = 64, 64 * 2**20

Put = Literal["new", "same", "other"]


def claim(store: ObjectStore, form: str, identity: Mapping[str, Any]) -> None:
    """Say in the folder what this export is. Raises RunError when another export of this format stands there."""
    key = f"_export-{form}.json"
    data = (json.dumps(identity, indent=1, ensure_ascii=False, sort_keys=True) + "\n").encode()
    if not store.put_if_absent(key, data) and store.get(key) != data:
        raise RunError(f"{store}/{key} tells of another export; give --to a folder of its own.")


class Putter(AbstractContextManager["Putter"]):
    """Puts objects in threads; a few wait at most. `outcomes` counts new objects, those that stood there with the same
    bytes, and those that stood there with other bytes; `others` names some of the last.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="export")
        self._waiting: deque[tuple[str, int, Future[Put]]] = deque()
        self._waiting_bytes = 0
        self.outcomes: Counter[Put] = Counter()
        self.others: list[str] = []

    def put(self, key: str, data: bytes) -> None:
        """Put when a thread is free. Raises StoreError of an earlier put."""
        while len(self._waiting) >= _WAITING or (self._waiting and self._waiting_bytes + len(data) > _WAITING_BYTES):
            self._settle()
        self._waiting.append((key, len(data), self._pool.submit(self._put, key, data)))
        self._waiting_bytes += len(data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            while self._waiting and error is None:
                self._settle()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _settle(self) -> None:
        key, size_bytes, future = self._waiting.popleft()
        self._waiting_bytes -= size_bytes
        outcome = future.result()
        self.outcomes[outcome] += 1
        if outcome == "other" and len(self.others) < 3:
            self.others.append(key)

    def _put(self, key: str, data: bytes) -> Put:
        if self._store.put_if_absent(key, data):
            return "new"
        return "same" if self._store.get(key) == data else "other"


class Files:
    """Lines of many recordings as `<stem>-00000.<suffix>`, `-00001` … of about FILE_BYTES, or of `rows` entries."""

    def __init__(self, putter: Putter, stem: str, suffix: str, rows: int | None = None) -> None:
        self._putter, self._stem, self._suffix, self._most_rows = putter, stem, suffix, rows
        self._pending: list[bytes] = []
        self._bytes = self._number = 0

    @property
    def key(self) -> str:
        """Where the next entry goes."""
        return f"{self._stem}-{self._number:05d}.{self._suffix}"

    def add(self, text: str) -> str:
        """Append an entry; the key of its file."""
        key = self.key
        self._pending.append(text.encode())
        self._bytes += len(self._pending[-1])
        if self._bytes >= FILE_BYTES or len(self._pending) == self._most_rows:
            self._put()
        return key

    def close(self) -> None:
        """Put what is left; without any entry, one empty file."""
        if self._pending or not self._number:
            self._put()

    def _put(self) -> None:
        self._putter.put(self.key, b"".join(self._pending))
        self._pending, self._bytes = [], 0
        self._number += 1
