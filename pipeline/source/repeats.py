"""Rows that say the same as an earlier one. What is kept of each row is a hash of 8 bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa


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
        """The repeats among the same rows, read again: equal hashes are only a suspicion. Without one nothing is read."""
        ordered = np.sort(np.concatenate(self._hashes))
        suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        if not len(suspects):
            return
        first: dict[tuple[Any, ...], tuple[str, int]] = {}
        for place, numbers, table in tables:
            for number, values in zip(numbers, self._values(table), strict=True):
                if values[0] is None or not _holds(suspects, hash(values)):
                    continue
                if values in first:
                    yield Repeat(place, number, *first[values], values)
                else:
                    first[values] = (place, number)

    def _values(self, table: pa.Table) -> Iterator[tuple[Any, ...]]:
        return zip(*(table[name].to_pylist() for name in self._columns), strict=True)


def _holds(ordered: npt.NDArray[np.int64], value: int) -> bool:
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and int(ordered[place]) == value
