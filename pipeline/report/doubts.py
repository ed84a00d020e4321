"""Which flagged segments a report shows: the worst of a run, and some of every flag; a bounded number, in one pass.

Worst first is the order in which `quarry retry` weighs flags (`pipeline.text.choice`), then by confidence. Speech that has no
text is among them: it is a span of a transcript and no segment.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.text.choice import RETRIED, WEIGHTS

SEGMENT_COLUMNS = ["recording_id", "start_s", "end_s", "text", "language", "speaker", "channel", "confidence", "flags"]
SPAN_COLUMNS = ["id", "spans"]
UNHEARD = "empty_on_speech"
NO_DOUBT = (RETRIED, "draft")  # marks of who heard it, and how
_EACH = 2  # of every flag, however light
_OF_ONE = 3  # of one recording, while there are others
_SPARE = 4  # times as many are kept as are shown, so that one recording does not leave out the others
_MOST_FLAGS = 40  # engines may bring flags of their own
_LONGEST_TEXT = 2000  # characters kept

Badness = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Doubt:
    """A stretch that should not be trusted. `uri` and `offset_s` are those of its recording, once they are looked up."""

    recording_id: str
    start_s: float
    end_s: float
    text: str
    language: str | None
    speaker: str | None
    channel: int | None
    confidence: float | None
    flags: tuple[str, ...]
    uri: str = ""
    offset_s: float = 0.0

    @property
    def badness(self) -> Badness:
        """Higher is worse."""
        weight = sum(WEIGHTS.get(flag, 1) for flag in self.flags if flag not in NO_DOUBT)
        unsure = 0.5 if self.confidence is None else 1 - self.confidence
        return weight, unsure, self.end_s - self.start_s


_Entry = tuple[Badness, int, Doubt]


class Doubts:
    """The worst stretches so far, `most` at the end."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, list[_Entry]] = {}
        self._taken = 0

    def add_segments(self, rows: pa.RecordBatch) -> None:
        """Take rows of `segments` with SEGMENT_COLUMNS."""
        flagged = rows.filter(pc.greater(pc.list_value_length(rows["flags"]), 0))
        lists = flagged["flags"]
        parents, flags = pc.list_parent_indices(lists), lists.flatten()
        doubtful = pc.invert(pc.is_in(flags, value_set=pa.array(NO_DOUBT)))
        weights = _weights(flags) * doubtful.to_numpy(zero_copy_only=False)
        weight = np.bincount(parents.to_numpy(), weights, minlength=flagged.num_rows)
        confidence = pc.fill_null(flagged["confidence"], 0.5).to_numpy(zero_copy_only=False).astype(np.float64)
        for flag in pc.unique(flags.filter(doubtful)).to_pylist():
            rows_of = np.unique(parents.filter(pc.equal(flags, flag)).to_numpy())
            worst = np.lexsort((confidence[rows_of], -weight[rows_of]))[: self._most * _SPARE]
            self._keep(flag, _doubts(flagged.take(pa.array(rows_of[worst]))))

    def add_spans(self, rows: pa.RecordBatch) -> None:
        """Take rows of `transcripts` with SPAN_COLUMNS: the longest stretches of speech without text."""
        lists = rows["spans"]
        parents, spans = pc.list_parent_indices(lists), lists.flatten()
        unheard = pc.indices_nonzero(pc.equal(spans.field("kind"), "unheard"))
        starts, ends = (spans.field(name).take(unheard).to_numpy(zero_copy_only=False) for name in ("start_s", "end_s"))
        ids = rows["id"].take(parents.take(unheard))
        longest = np.argsort(starts - ends, kind="stable")[: self._most * _SPARE]
        self._keep(
            UNHEARD,
            (
                Doubt(ids[at].as_py(), float(starts[at]), float(ends[at]), "", None, None, None, None, (UNHEARD,))
                for at in longest.tolist()
            ),
        )

    def worst(self) -> list[Doubt]:
        """The worst of all, with some of every flag, and few of one recording while there are others; worst first."""
        by_flag = [sorted(heap, reverse=True) for heap in self._kept.values()]
        all_of_them = sorted((entry for entries in by_flag for entry in entries), reverse=True)
        of_every_flag = sorted((entry for entries in by_flag for entry in entries[:_EACH]), reverse=True)
        chosen: dict[Doubt, _Entry] = {}
        of_one: Counter[str] = Counter()
        for entry in [*of_every_flag, *all_of_them]:
            doubt = entry[2]
            if len(chosen) < self._most and doubt not in chosen and of_one[doubt.recording_id] < _OF_ONE:
                chosen[doubt] = entry
                of_one[doubt.recording_id] += 1
        rest = (entry for entry in all_of_them if entry[2] not in chosen)
        chosen |= {entry[2]: entry for entry in list(rest)[: self._most - len(chosen)]}
        return [doubt for _, _, doubt in sorted(chosen.values(), reverse=True)]

    def _keep(self, flag: str, doubts: Iterable[Doubt]) -> None:
        if flag not in self._kept and len(self._kept) >= _MOST_FLAGS:
            return
        heap = self._kept.setdefault(flag, [])
        for doubt in doubts:
            self._taken += 1
            entry = (doubt.badness, -self._taken, doubt)  # of equals, the first
            if len(heap) < self._most * _SPARE:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)


def located(doubts: Sequence[Doubt], batches: Iterable[pa.RecordBatch]) -> list[Doubt]:
    """The doubts with the place of their recordings, from batches of `transcripts` with id, uri and offset_s."""
    places = {}
    for batch in batches:
        for row in batch.to_pylist():
            places[row["id"]] = {"uri": row["uri"], "offset_s": row["offset_s"]}
    return [replace(doubt, **places.get(doubt.recording_id, {})) for doubt in doubts]


def _weights(flags: pa.Array) -> npt.NDArray[np.float64]:
    places = pc.fill_null(pc.index_in(flags, value_set=pa.array(list(WEIGHTS))), len(WEIGHTS))
    values: npt.NDArray[np.float64] = np.array([*WEIGHTS.values(), 1.0])  # an engine's own flag weighs little
    found: npt.NDArray[np.float64] = values[places.to_numpy(zero_copy_only=False)]
    return found


def _doubts(rows: pa.RecordBatch) -> Iterator[Doubt]:
    for row in rows.to_pylist():
        yield Doubt(**{**row, "text": (row["text"] or "")[:_LONGEST_TEXT], "flags": tuple(row["flags"])})
