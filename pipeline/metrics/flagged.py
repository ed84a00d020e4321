"""How much of a run has which quality flag: pieces (segments, and unheard spans), recordings and seconds, by flag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True, slots=True)
class Flagged:
    """What one flag was set on. A piece with two flags counts for both."""

    pieces: int = 0
    recordings: int = 0
    audio_s: float = 0.0

    def __add__(self, other: Flagged) -> Flagged:
        return Flagged(self.pieces + other.pieces, self.recordings + other.recordings, self.audio_s + other.audio_s)


def count_flags(rows: pa.Table) -> dict[str, Flagged]:
    """By flag, over rows of TRANSCRIPTS, whole recordings only."""
    found = pa.concat_tables([_of_segments(rows), _of_spans(rows)]).group_by("flag")
    sums = found.aggregate([("seconds", "count"), ("recording", "count_distinct"), ("seconds", "sum")])
    return {
        row["flag"]: Flagged(row["seconds_count"], row["recording_count_distinct"], row["seconds_sum"])
        for row in sums.to_pylist()
    }


def add_flags(one: Mapping[str, Flagged], other: Mapping[str, Flagged]) -> dict[str, Flagged]:
    """Both together."""
    return {flag: one.get(flag, Flagged()) + other.get(flag, Flagged()) for flag in {*one, *other}}


def _of_segments(rows: pa.Table) -> pa.Table:
    parents, segments = _flat(rows["segments"])
    flags = segments.field("flags")
    which = pc.list_parent_indices(flags)
    return _pieces(flags.flatten(), parents.take(which), segments.take(which))


def _of_spans(rows: pa.Table) -> pa.Table:
    parents, spans = _flat(rows["spans"])
    unheard = pc.indices_nonzero(pc.equal(spans.field("kind"), "unheard"))
    return _pieces(pa.repeat("empty_on_speech", len(unheard)), parents.take(unheard), spans.take(unheard))


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, pa.StructArray]:
    lists = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    return pc.list_parent_indices(lists), lists.flatten()


def _pieces(flags: pa.Array, recordings: pa.Array, pieces: pa.StructArray) -> pa.Table:
    # Of a stretch that ends before it starts, nothing.
    lengths = pc.subtract(pieces.field("end_s"), pieces.field("start_s"))
    seconds = np.maximum(lengths.to_numpy(zero_copy_only=False), 0.0)
    return pa.table({"flag": flags, "recording": recordings, "seconds": pa.array(seconds, pa.float64())})
