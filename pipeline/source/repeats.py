"""Rows that say the same as an earlier one. What is kept of each row is a hash of 8 bytes, of one that comes again 28 more."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_KEY = os.urandom(16)


class Repeat(NamedTuple):
    """A row and the first that says the same, each by its file (of several) and its number there."""

    place: str
    number: int
    first_place: str
    first_number: int
    values: tuple[Any, ...]


class Repeats:
    """Finds rows with the same values in `columns`; a row without the first of them is like no other."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = tuple(columns)
        self._hashes = [np.zeros(0, np.int64)]
        self.rows = 0

    def add(self, table: pa.Table) -> None:
        """Take note of some rows."""
        # Python's own hash is salted per process: nobody can prepare a manifest of collisions.
        hashes = np.fromiter((hash(values) for values in self._values(table) if values[0] is not None), np.int64)
        self._hashes.append(hashes)
        self.rows += table.num_rows

    def find(self, tables: Iterable[tuple[str, list[int], pa.Table]]) -> Iterator[Repeat]:
        """The repeats among the same rows, read again: equal hashes are only a suspicion. Without one nothing is read.

        Of what is suspected a second hash is kept, no values: a manifest may hold millions of rows twice.
        """
        ordered = np.concatenate(self._hashes)
        self._hashes = [ordered]
        ordered.sort()
        suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(suspects):
            return
        seen = np.zeros(len(suspects), [("place", np.int32), ("number", np.int64), ("hash", np.int64)])
        places: list[str] = []
        for place, numbers, table in tables:
            if places[-1:] != [place]:
                places.append(place)
            for number, values in zip(numbers, self._values(table), strict=True):
                where = None if values[0] is None else _find(suspects, hash(values))
                if where is None:
                    continue
                second = _second_hash(values)
                if not seen[where]["number"]:
                    seen[where] = (len(places) - 1, number, second)
                elif seen[where]["hash"] == second:
                    yield Repeat(place, number, places[seen[where]["place"]], int(seen[where]["number"]), values)

    def _values(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        return zip(*(table[name].to_pylist() for name in self._columns), strict=True)


def _find(ordered: npt.NDArray[np.int64], value: int) -> int | None:
    place = int(np.searchsorted(ordered, value))
    return place if place < len(ordered) and int(ordered[place]) == value else None


def _second_hash(values: tuple[Any, ...]) -> int:
    """Of what has an equal hash already. Salted per process too."""
    return int.from_bytes(blake2b(repr(values).encode(), digest_size=8, key=_KEY).digest(), signed=True)
