"""Word error rates by the length of a recording, and by columns of the manifest that take few values; one pass, fixed memory.

All slicings share one draw of the bootstrap's weights for each recording: most of the time goes into drawing.
Error rates by language are those of the run itself (`pipeline.metrics.summary`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.bootstrap import REPLICATES, SEED, interval_of, poisson_weights
from pipeline.metrics.shares import BUCKETS, duration_buckets

COLUMNS = [
    "duration_s",
    "word_substitutions",
    "word_deletions",
    "word_insertions",
    "word_reference_length",
    "extra",
]
DURATION = "duration"
MOST_VALUES, MOST_COLUMNS = 24, 16
_LONGEST_VALUE = 200  # characters
_ROWS_AT_ONCE = 128

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Slice:
    """Recordings with one value. `wer` and its interval are None where nothing was scored."""

    value: str
    recordings: int
    audio_s: float
    scored: int
    words: int
    wer: float | None
    low: float | None
    high: float | None


@dataclass
class _Sums:
    recordings: int = 0
    audio_s: float = 0.0
    scored: int = 0
    errors: int = 0
    words: int = 0
    replicates: Numbers = field(default_factory=lambda: np.zeros((2, REPLICATES)))

    def slice(self, value: str) -> Slice:
        low, high = (interval_of(self.replicates) if self.scored else None) or (None, None)
        wer = self.errors / self.words if self.words else None
        return Slice(value, self.recordings, self.audio_s, self.scored, self.words, wer, low, high)


class Slices:
    """Sums by slicing and value. A column of the manifest with more than MOST_VALUES values is left out."""

    def __init__(self) -> None:
        self._random = np.random.Generator(np.random.PCG64(SEED))
        self._by: dict[str, dict[str, _Sums]] = {}
        self.left_out: set[str] = set()

    def add(self, rows: pa.RecordBatch) -> None:
        """Take rows with COLUMNS, at most some thousand."""
        columns = {DURATION: duration_buckets(rows["duration_s"])}
        columns |= {key: self._values(rows["extra"], key) for key in self._keys(rows["extra"])}
        coded = {}
        for name, values in columns.items():
            codes = values.dictionary_encode()
            if name == DURATION or self._has_room(name, codes.dictionary):
                groups = self._by.setdefault(name, {})
                coded[name] = (
                    [groups.setdefault(value, _Sums()) for value in codes.dictionary.to_pylist()],
                    codes.indices.to_numpy(zero_copy_only=False),
                )
        self._count(rows, coded)

    def tables(self) -> dict[str, list[Slice]]:
        """By slicing: durations in their order, other values by the audio they have. Columns with one value are left out."""
        found = {}
        for name, groups in self._by.items():
            slices = [sums.slice(value) for value, sums in groups.items()]
            if name == DURATION:
                found[name] = sorted(slices, key=lambda one: BUCKETS.index(one.value))
            elif len(slices) > 1:
                found[name] = sorted(slices, key=lambda one: (-one.audio_s, one.value))
        return found

    def _keys(self, extra: pa.MapArray) -> list[str]:
        """Columns to look at: the first MOST_COLUMNS that were met and have not been left out."""
        for key in pc.unique(extra.keys).to_pylist():
            known = len(self._by) - (DURATION in self._by)
            if key != DURATION and key not in self._by and key not in self.left_out:
                if known < MOST_COLUMNS:
                    self._by[key] = {}
                elif len(self.left_out) < 100:
                    self.left_out.add(key)
        return [key for key in self._by if key != DURATION]

    @staticmethod
    def _values(extra: pa.MapArray, key: str) -> pa.Array:
        values = pc.map_lookup(extra, pa.scalar(key), "first")
        return pc.utf8_slice_codeunits(pc.fill_null(values, "(none)"), 0, _LONGEST_VALUE)

    def _has_room(self, name: str, values: pa.Array) -> bool:
        if len(set(self._by[name]) | set(values.to_pylist())) <= MOST_VALUES:
            return True
        del self._by[name]
        self.left_out.add(name)
        return False

    def _count(self, rows: pa.RecordBatch, coded: dict[str, tuple[list[_Sums], npt.NDArray[np.int32]]]) -> None:
        seconds = pc.fill_null(rows["duration_s"], 0.0).to_numpy(zero_copy_only=False)
        is_scored = rows["word_reference_length"].is_valid().to_numpy(zero_copy_only=False)
        edits = [pc.fill_null(rows[name], 0).to_numpy(zero_copy_only=False) for name in COLUMNS[1:4]]
        errors = np.sum(edits, axis=0).astype(np.int64)
        words = pc.fill_null(rows["word_reference_length"], 0).to_numpy(zero_copy_only=False)
        for sums, codes in coded.values():
            for at, one in enumerate(sums):
                mine = codes == at
                one.recordings += int(mine.sum())
                one.audio_s += float(seconds[mine].sum())
                one.scored += int((mine & is_scored).sum())
                one.errors += int(errors[mine].sum())
                one.words += int(words[mine].sum())
        scored = np.flatnonzero(is_scored)
        for start in range(0, len(scored), _ROWS_AT_ONCE):
            some = scored[start : start + _ROWS_AT_ONCE]
            weights = poisson_weights(self._random, len(some), REPLICATES).astype(np.float64)
            both = np.stack([errors[some], words[some]]).astype(np.float64)
            for sums, codes in coded.values():
                for at in np.unique(codes[some]):
                    sums[at].replicates += (both * (codes[some] == at)) @ weights
