"""Text by key for millions of keys in any order: Arrow strings and 16 bytes per key, no Python objects."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_CHUNK = 20_000


class Lookup:
    """Filled with `add`, then asked with `get`. Of a key that comes twice the first value counts."""

    def __init__(self) -> None:
        self._keys: list[pa.Array] = []
        self._values: list[pa.Array] = []
        self._starts: list[int] = []
        self._open: list[tuple[str, str]] = []
        self._hashes: list[npt.NDArray[np.int64]] = []
        self._sorted: tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None = None

    def add(self, key: str, value: str) -> None:
        """One more pair."""
        self._open.append((key, value))
        if len(self._open) == _CHUNK:
            self._close()

    def get(self, key: str) -> str | None:
        """The value of `key`, or None."""
        hashes, order = self._index()
        wanted = np.int64(hash(key))
        for place in order[np.searchsorted(hashes, wanted) : np.searchsorted(hashes, wanted, "right")]:
            chunk, at = self._where(int(place))
            if self._keys[chunk][at].as_py() == key:
                value: str = self._values[chunk][at].as_py()
                return value
        return None

    def repeats(self) -> Iterator[tuple[int, str]]:
        """Place (from 0, in the order of `add`) and name of every key that an earlier pair has."""
        hashes, order = self._index()
        for value in np.unique(hashes[1:][hashes[1:] == hashes[:-1]]):
            seen: set[str] = set()
            for place in order[np.searchsorted(hashes, value) : np.searchsorted(hashes, value, "right")]:
                chunk, at = self._where(int(place))
                key = self._keys[chunk][at].as_py()
                if key in seen:
                    yield int(place), key
                seen.add(key)

    def _index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        if self._sorted is None:
            if self._open:
                self._close()
            hashes = np.concatenate(self._hashes) if self._hashes else np.zeros(0, np.int64)
            order = np.argsort(hashes, kind="stable")
            self._sorted = hashes[order], order
            self._hashes = []
        return self._sorted

    def _close(self) -> None:
        keys, values = zip(*self._open, strict=True)
        self._starts.append((self._starts[-1] + len(self._keys[-1])) if self._starts else 0)
        self._keys.append(pa.array(keys, pa.string()))
        self._values.append(pa.array(values, pa.string()))
        self._hashes.append(np.fromiter(map(hash, keys), np.int64, len(keys)))
        self._open = []

    def _where(self, place: int) -> tuple[int, int]:
        chunk = bisect_right(self._starts, place) - 1
        return chunk, place - self._starts[chunk]
