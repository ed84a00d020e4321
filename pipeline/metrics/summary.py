"""Sums over transcript rows, table by table: what a run, a language, any slice of it adds up to.

Only sums are kept: the totals of two tables added are the totals of both tables together, and rates are taken at the end.
A table may be dropped once it was added; slices of a column beyond MOST_SLICES are counted together as OTHER.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.bootstrap import Bootstrap, Counts
from pipeline.metrics.flagged import Flagged, add_flags, count_flags
from pipeline.metrics.rtfx import rtfx
from pipeline.metrics.wer import NO_ERRORS, error_rate, total
from pipeline.records import EngineStats, ErrorCounts

MOST_SLICES = 200
MOST_EXAMPLES = 10
UNKNOWN, OTHER = "unknown", "other"

_STATUSES = ("ok", "partial", "failed", "skipped")
_SECONDS = ("audio_s", "channels_s", "decode_s", "engine_s")
_EDITS = ("substitutions", "deletions", "insertions")

STATS = pa.schema(
    [
        *((name, pa.string()) for name in ("column", "value")),
        *((name, pa.int64()) for name in ("recordings", *_STATUSES)),
        *((name, pa.float64()) for name in (*_SECONDS, "rtfx")),
        ("scored", pa.int64()),
        *((name, pa.int64()) for name in ("words", *(f"word_{edit}" for edit in _EDITS))),
        *((name, pa.float64()) for name in ("wer", "wer_low", "wer_high")),
        *((name, pa.int64()) for name in ("chars", *(f"char_{edit}" for edit in _EDITS))),
        *((name, pa.float64()) for name in ("cer", "cer_low", "cer_high")),
    ]
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over some transcript rows; the error counts are those of the rows that were scored."""

    recordings: int = 0
    ok: int = 0
    partial: int = 0
    failed: int = 0
    skipped: int = 0
    audio_s: float = 0.0
    channels_s: float = 0.0  # the same, each channel of a recording that is split counted: what RTFx is of
    decode_s: float = 0.0
    engine_s: float = 0.0
    scored: int = 0
    words: ErrorCounts = NO_ERRORS
    chars: ErrorCounts = NO_ERRORS


def add(totals: Totals, rows: pa.Table) -> Totals:
    """The sums with the rows of one table of TRANSCRIPTS added."""
    statuses = Counter(rows["status"].to_pylist())
    return Totals(
        recordings=totals.recordings + rows.num_rows,
        ok=totals.ok + statuses["ok"],
        partial=totals.partial + statuses["partial"],
        failed=totals.failed + statuses["failed"],
        skipped=totals.skipped + statuses["skipped"],
        audio_s=totals.audio_s + _sum(rows["duration_s"]),
        channels_s=totals.channels_s + _sum(_channels_s(rows)),
        decode_s=totals.decode_s + _sum(rows["decode_s"]),
        engine_s=totals.engine_s + _sum(rows["engine_s"]),
        scored=totals.scored + rows.num_rows - rows["word_reference_length"].null_count,
        words=total([totals.words, _counts(rows, "word")]),
        chars=total([totals.chars, _counts(rows, "char")]),
    )


def slices(rows: pa.Table, column: str) -> Iterator[tuple[str, pa.Table]]:
    """The rows by the value of a column; no value is UNKNOWN."""
    values = rows[column] if column in rows.column_names else pc.map_lookup(rows["extra"], pa.scalar(column), "first")
    values = pc.fill_null(pc.cast(values, pa.string()), UNKNOWN)
    for value in sorted(pc.unique(values).to_pylist()):
        yield value, rows.filter(pc.equal(values, value))


class RunTotals:
    """What a finished run says about itself: sums with intervals, for all rows and by chosen columns; fixed memory."""

    def __init__(self, columns: Sequence[str] = ("language",)) -> None:
        self._all = _Slice()
        self._by: dict[str, dict[str, _Slice]] = {column: {} for column in columns}
        self._engine = EngineStats()
        self._flags: dict[str, Flagged] = {}
        self._failure_codes: Counter[str] = Counter()
        self._failure_examples: list[dict[str, str]] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows of TRANSCRIPTS, whole recordings only."""
        self._all.add(rows)
        for column, groups in self._by.items():
            for value, some in slices(rows, column):
                name = value if value in groups or len(groups) < MOST_SLICES else OTHER
                groups.setdefault(name, _Slice()).add(some)
        self._flags = add_flags(self._flags, count_flags(rows))
        failed = rows.select(["id", "failure"]).filter(rows["failure"].is_valid()).to_pylist()
        self._failure_codes.update(row["failure"]["code"] for row in failed)
        for row in failed[: MOST_EXAMPLES - len(self._failure_examples)]:
            self._failure_examples.append(
                {"id": row["id"], **{key: row["failure"][key] for key in ("code", "message")}}
            )

    def add_engine(self, stats: EngineStats) -> None:
        """Take what one shard cost on the engine."""
        names = [name for name in EngineStats.__slots__ if name != "done_at_s"]  # a time of day adds up to nothing
        summed = {name: getattr(self._engine, name) + getattr(stats, name) for name in names}
        self._engine = replace(self._engine, **summed)

    def table(self) -> pa.Table:
        """One row of STATS for all (`column` is "all") and one for each value of each column, largest first."""
        rows = [{"column": "all", "value": "all", **self._all.row()}]
        for column, groups in self._by.items():
            rows += [{"column": column, "value": value, **each} for value, each in _largest_first(groups).items()]
        return pa.Table.from_pylist(rows, schema=STATS)

    def as_dict(self) -> dict[str, Any]:
        """The same for run.json, with the engine's sums and what failed: `by_<column>`, `flags`, `failure_codes` …"""
        return {
            **self._all.row(),
            "wait_s": self._engine.wait_s,
            "queued_s": self._engine.queued_s,
            "engine_audio_s": self._engine.audio_s,
            "padded_s": self._engine.padded_s,
            "draft_s": self._engine.draft_s,
            "drafted_tokens": self._engine.drafted_tokens,
            "foretold_tokens": self._engine.foretold_tokens,
            "batches": self._engine.batches,
            **{f"by_{column}": _largest_first(groups) for column, groups in self._by.items()},
            "flags": {flag: asdict(self._flags[flag]) for flag in _most_audio_first(self._flags)},
            "failure_codes": dict(self._failure_codes.most_common()),
            "failure_examples": self._failure_examples,
        }


class _Slice:
    """Totals and the two bootstraps over the same rows."""

    def __init__(self) -> None:
        self.totals = Totals()
        self._words, self._chars = Bootstrap(), Bootstrap()

    def add(self, rows: pa.Table) -> None:
        self.totals = add(self.totals, rows)
        scored = rows.filter(rows["word_reference_length"].is_valid())
        self._words.add(*_errors_and_lengths(scored, "word"))
        self._chars.add(*_errors_and_lengths(scored, "char"))

    def row(self) -> dict[str, Any]:
        totals = self.totals
        wer_low, wer_high = self._words.interval() or (None, None)
        cer_low, cer_high = self._chars.interval() or (None, None)
        return {
            **{name: getattr(totals, name) for name in ("recordings", *_STATUSES, *_SECONDS, "scored")},
            "rtfx": rtfx(totals.channels_s, totals.engine_s),
            "words": totals.words.reference_length,
            **{f"word_{edit}": getattr(totals.words, edit) for edit in _EDITS},
            **{"wer": error_rate(totals.words), "wer_low": wer_low, "wer_high": wer_high},
            "chars": totals.chars.reference_length,
            **{f"char_{edit}": getattr(totals.chars, edit) for edit in _EDITS},
            **{"cer": error_rate(totals.chars), "cer_low": cer_low, "cer_high": cer_high},
        }


def _largest_first(groups: dict[str, _Slice]) -> dict[str, dict[str, Any]]:
    return {value: groups[value].row() for value in sorted(groups, key=lambda value: -groups[value].totals.audio_s)}


def _most_audio_first(flags: dict[str, Flagged]) -> list[str]:
    return sorted(flags, key=lambda flag: (-flags[flag].audio_s, flag))


def _sum(column: pa.ChunkedArray) -> float:
    return pc.sum(column, min_count=0).as_py() or 0.0


def _channels_s(rows: pa.Table) -> pa.ChunkedArray:
    """Seconds times channels that were kept apart, which a row's own RTFx tells; where the engine did nothing: seconds."""
    channels = pc.round(pc.divide(pc.multiply(rows["rtfx"], rows["engine_s"]), rows["duration_s"]))
    return pc.multiply(rows["duration_s"], pc.fill_null(pc.if_else(pc.is_finite(channels), channels, None), 1.0))


def _counts(rows: pa.Table, unit: str) -> ErrorCounts:
    return ErrorCounts(*(int(_sum(rows[f"{unit}_{part}"])) for part in (*_EDITS, "reference_length")))


def _errors_and_lengths(rows: pa.Table, unit: str) -> tuple[Counts, Counts]:
    edits, length = [rows[f"{unit}_{edit}"].to_numpy() for edit in _EDITS], rows[f"{unit}_reference_length"].to_numpy()
    return np.sum(edits, axis=0, dtype=np.int64), length.astype(np.int64)
