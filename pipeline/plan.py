"""The plan: rows and durations → windows → shards, the same way every time. Pure and columnar; opens nothing.

A recording longer than `plan.window_s` is cut into equal windows. Windows go into shards longest first, so that a shard's
windows are of like length and batch well, and the windows of one recording stay together. The order of the rows has no say:
equal lengths are ordered by id. A plan is a table of PLAN_SCHEMA, one row per window, the rows of a shard together.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import PlanConfig
from pipeline.metrics.shares import Shares, add_shares, duration_shares, language_shares
from pipeline.records import Recording, Shard, Window

PLAN_SCHEMA = pa.schema(
    [
        ("shard_index", pa.int64()),
        ("shard_id", pa.string()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("offset_s", pa.float64()),
        ("duration_s", pa.float64()),  # given or probed; null: unknown, decided when decoded
        ("language", pa.string()),
        ("keywords", pa.list_(pa.string())),
        ("reference_text", pa.string()),
        ("channel", pa.int32()),
        ("speakers", pa.string()),  # as in MANIFEST_SCHEMA
        ("extra", pa.map_(pa.string(), pa.string())),
        ("window_index", pa.int32()),
        ("window_count", pa.int32()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("open_end", pa.bool_()),  # the duration was not given by the row: read on to the real end
        ("size_bytes", pa.int64()),
        ("etag", pa.string()),
    ]
)

_ROW_COLUMNS = (
    "id",
    "uri",
    "offset_s",
    "language",
    "keywords",
    "reference_text",
    "channel",
    "speakers",
    "extra",
    "size_bytes",
    "etag",
)
# What a shard's id stands for: all that its text, and the scoring of its text, depends on.
_HASHED = (
    *("id", "uri", "offset_s", "duration_s", "language", "keywords", "reference_text", "channel", "speakers"),
    *("window_index", "window_count", "start_s", "end_s", "open_end", "size_bytes", "etag"),
)

_BLOCK_WINDOWS = 20_000
# A recording whose header could not be read may be of any length: few of them share a shard.
_UNKNOWN_S = 60.0
_TICKS_PER_S = 1_000_000  # lengths are added up as integers: the packing must not depend on rounding

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class PlanTotals:
    """What a plan amounts to."""

    recordings: int
    windows: int
    shards: int
    audio_s: float
    unknown: int  # recordings whose duration nobody knows
    by_language: Shares = field(default_factory=dict)
    by_duration: Shares = field(default_factory=dict)


def plan_table(rows: pa.Table, config: PlanConfig, first_index: int = 0, max_audio_s: float = 86_400.0) -> pa.Table:
    """The plan of manifest rows (MANIFEST_SCHEMA, with the columns of `probe_missing` where it was needed).

    Shards are numbered from `first_index`. A recording longer than `max_audio_s` stays one window, which the decoder
    refuses. Ids must be unique. The same rows in any order give the same table.
    """
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *plan_blocks(rows, config, first_index, max_audio_s)])


def plan_blocks(
    rows: pa.Table, config: PlanConfig, first_index: int = 0, max_audio_s: float = 86_400.0
) -> Iterator[pa.Table]:
    """`plan_table` in pieces of whole shards, made as they are asked for: for plans of many millions of windows."""
    columns = _input_columns(rows)
    by_id = pc.sort_indices(columns["id"]).to_numpy()
    duration_s = columns["duration_s"].to_numpy()[by_id]
    counts = _window_counts(duration_s, config, max_audio_s)
    place, nth, starts = _lay_out(duration_s, counts, config)
    for first_shard, edges in _blocks(starts, len(place)):
        block = slice(edges[0], edges[-1])
        windows = _windows(columns, by_id[place[block]], counts[place[block]], nth[block])
        yield _with_shards(windows, edges - edges[0], first_index + first_shard)


def _input_columns(rows: pa.Table) -> pa.Table:
    """The columns that a plan takes from its rows, each in one piece: `take` is slow on many.

    `duration_s` becomes what is known of it, 0 for unknown; `open_end` says that the row did not give it.
    """
    known = rows["duration_s"]
    if "probe_duration_s" in rows.column_names:
        known = pc.coalesce(known, rows["probe_duration_s"])
    seconds = pc.fill_null(known, 0.0).combine_chunks().to_numpy()
    columns = rows.select([name for name in _ROW_COLUMNS if name in rows.column_names]).combine_chunks()
    columns = columns.append_column("duration_s", pa.array(np.where(seconds > 0, seconds, 0.0)))
    return columns.append_column("open_end", pc.is_null(rows["duration_s"]).combine_chunks())


def _window_counts(duration_s: _Floats, config: PlanConfig, max_audio_s: float) -> _Ints:
    counts = np.ceil(np.where(duration_s <= max_audio_s, duration_s, 0.0) / config.window_s)
    return np.maximum(counts, 1).astype(np.int32)


def _lay_out(duration_s: _Floats, counts: _Ints, config: PlanConfig) -> tuple[_Ints, _Ints, _Ints]:
    """Every window in the order of the plan, as its recording's place and its number there; and where shards begin."""
    place = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    first = np.cumsum(counts, dtype=np.int32) - counts
    nth = np.arange(len(place), dtype=np.int32) - np.repeat(first, counts)
    lengths_s = duration_s / counts
    # Stable: among equals the windows stay in the order of id and number.
    longest_first = np.argsort(-lengths_s[place], kind="stable")
    place, nth = place[longest_first], nth[longest_first]
    return place, nth, _shard_starts(lengths_s[place], config)


def _shard_starts(lengths_s: _Floats, config: PlanConfig) -> _Ints:
    """Where shards begin when windows fill them in order."""
    limit = int(config.shard_s * _TICKS_PER_S)
    ticks = np.where(lengths_s > 0, lengths_s, _UNKNOWN_S) * _TICKS_PER_S
    ends = np.cumsum(np.minimum(np.ceil(ticks, out=ticks), limit, out=ticks), dtype=np.int64).data  # items: plain ints

    def fill() -> Iterator[int]:
        start, filled = 0, 0
        while start < len(ends):
            yield start
            most = min(start + config.max_windows_per_shard, len(ends))
            start = bisect_right(ends, filled + limit, start + 1, most)
            filled = ends[start - 1]

    return np.fromiter(fill(), np.int64)


def _blocks(starts: _Ints, windows: int) -> Iterator[tuple[int, _Ints]]:
    """Whole shards, about _BLOCK_WINDOWS windows at a time: the first shard's number, and the shards' edges."""
    edges = np.append(starts, windows)
    firsts = np.searchsorted(starts, np.arange(0, windows, _BLOCK_WINDOWS))
    for first, stop in pairwise(np.unique(np.append(firsts, len(starts)))):
        yield int(first), edges[first : stop + 1]


def _windows(columns: pa.Table, rows: _Ints, counts: _Ints, nth: _Ints) -> pa.Table:
    """Windows as a table: number `nth` of `counts` equal ones of each of `rows`."""
    table = columns.take(pa.array(rows))
    duration_s = table["duration_s"].to_numpy()
    added = {
        "duration_s": pa.array(duration_s, mask=duration_s == 0),
        "window_index": pa.array(nth, pa.int32()),
        "window_count": pa.array(counts, pa.int32()),
        "start_s": pa.array(duration_s * (nth / counts)),
        "end_s": pa.array(duration_s * ((nth + 1) / counts)),  # of the last: the duration itself
    }
    table = table.drop_columns("duration_s")
    for name in {"size_bytes", "etag"} - set(table.column_names):
        added[name] = pa.nulls(len(rows), PLAN_SCHEMA.field(name).type)
    for name, column in added.items():
        table = table.append_column(name, column)
    return table


def _with_shards(windows: pa.Table, edges: _Ints, first_index: int) -> pa.Table:
    """The block as PLAN_SCHEMA: window rows with the number and the id of their shard."""
    spelled = _spelled(windows)
    offsets = np.frombuffer(spelled.buffers()[1], np.int32)
    text = memoryview(spelled.buffers()[2])
    ids = [
        f"{first_index + shard:05d}-{hashlib.sha256(text[offsets[start] : offsets[stop]]).hexdigest()[:8]}"
        for shard, (start, stop) in enumerate(pairwise(edges))
    ]
    shard = np.repeat(np.arange(len(ids)), np.diff(edges))
    windows = windows.append_column("shard_index", pa.array(first_index + shard))
    return windows.append_column("shard_id", pa.array(ids).take(pa.array(shard))).select(PLAN_SCHEMA.names)


def _spelled(windows: pa.Table) -> pa.Array:
    """Each window's _HASHED values as one string; floats by their bits, so that no printing can round them."""
    columns = []
    for name in _HASHED:
        column = windows[name]
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_valid(column), pa.array(column.to_numpy().view(np.int64)), None)
        elif pa.types.is_list(column.type):
            column = pc.binary_join(column, "\x1e")
        columns.append(column.cast(pa.string()))
    joined = pc.binary_join_element_wise(*columns, "", "\x1f", null_handling="replace", null_replacement="\x00")
    return joined.combine_chunks()


# --------------------------------------------------------------------------------------------------------------------
# A plan that exists


def shards_of(table: pa.Table) -> Iterator[Shard]:
    """The shards of a plan table, or of some of its shards' rows, in the table's order. Lazy."""
    rows = (row for batch in table.to_batches(max_chunksize=_BLOCK_WINDOWS // 10) for row in batch.to_pylist())
    for shard_id, group in groupby(rows, itemgetter("shard_id")):
        windows: list[Window] = []
        for row in group:
            same = windows and windows[-1].recording.id == row["id"]
            windows.append(_window_of(row, windows[-1].recording if same else _recording_of(row)))
        audio_s = sum(window.end_s - window.start_s for window in windows)
        yield Shard(shard_id, int(shard_id.partition("-")[0]), tuple(windows), audio_s)


def _window_of(row: dict[str, Any], recording: Recording) -> Window:
    return Window(
        recording=recording,
        index=row["window_index"],
        count=row["window_count"],
        start_s=row["start_s"],
        end_s=row["end_s"],
        open_end=row["open_end"],
        size_bytes=row["size_bytes"],
        etag=row["etag"],
    )


def _recording_of(row: dict[str, Any]) -> Recording:
    return Recording(
        id=row["id"],
        uri=row["uri"],
        offset_s=row["offset_s"],
        duration_s=row["duration_s"],
        language=row["language"],
        keywords=tuple(row["keywords"] or ()),
        reference_text=row["reference_text"],
        channel=row["channel"],
        speakers=json.loads(row["speakers"]) if row["speakers"] else {},
        extra=dict(row["extra"] or ()),
    )


def totals(table: pa.Table) -> PlanTotals:
    """What a plan table amounts to."""
    firsts = pc.equal(table["window_index"], 0)
    return PlanTotals(
        recordings=pc.sum(firsts).as_py() or 0,
        windows=table.num_rows,
        shards=pc.count_distinct(table["shard_index"]).as_py(),
        audio_s=pc.sum(pc.subtract(table["end_s"], table["start_s"])).as_py() or 0.0,
        unknown=pc.sum(pc.and_(firsts, pc.is_null(table["duration_s"]))).as_py() or 0,
        by_language=language_shares(table),
        by_duration=duration_shares(table),
    )


def add_totals(one: PlanTotals, other: PlanTotals) -> PlanTotals:
    """What two pieces of a plan amount to together, each of whole shards."""
    return PlanTotals(
        recordings=one.recordings + other.recordings,
        windows=one.windows + other.windows,
        shards=one.shards + other.shards,
        audio_s=one.audio_s + other.audio_s,
        unknown=one.unknown + other.unknown,
        by_language=add_shares(one.by_language, other.by_language),
        by_duration=add_shares(one.by_duration, other.by_duration),
    )


def split_new(rows: pa.Table, known_ids: pa.ChunkedArray) -> pa.Table:
    """The manifest rows whose ids no plan part has: what a grown manifest adds."""
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=known_ids)))


def changed_rows(rows: pa.Table, planned: pa.Table, limit: int = 5) -> list[str]:
    """Ids, at most `limit`, of rows that the manifest now gives otherwise than when they were planned.

    Looks at uri, offset, duration, channel, language, keywords, reference and speakers. A row that is not planned, or a
    planned one that the manifest has no more, is no change.
    """
    planned = planned.filter(pc.equal(planned["window_index"], 0))
    where = pc.index_in(rows["id"], value_set=planned["id"])
    rows, where = rows.filter(pc.is_valid(where)), where.drop_null()
    # A probed duration is not the row's: there, the row still gives none.
    given = pc.if_else(planned["open_end"], pa.scalar(None, pa.float64()), planned["duration_s"])
    planned = planned.drop_columns("duration_s").append_column("duration_s", given)
    changed = pa.array(np.zeros(rows.num_rows, bool))
    for name in ("uri", "offset_s", "duration_s", "channel", "language", "keywords", "reference_text", "speakers"):
        now, then = rows[name], planned[name].combine_chunks().take(where)
        if pa.types.is_list(now.type):
            now, then = pc.binary_join(now, "\x1e"), pc.binary_join(then, "\x1e")
        same = pc.or_kleene(pc.equal(now, then), pc.and_(pc.is_null(now), pc.is_null(then)))
        changed = pc.or_(changed, pc.invert(pc.fill_null(same, False)))
    ids: list[str] = rows.filter(changed)["id"].slice(0, limit).to_pylist()
    return ids
