"""The plan: rows and durations → windows → shards, the same way every time. Pure and columnar; opens nothing.

A recording longer than `plan.window_s` is cut into equal windows. Windows go into shards longest first, so that a shard's
windows are of like length and batch well, and the windows of one recording stay together. A recording that is split counts with
every channel, in the length of its windows and in its shard: all of them are in memory at once. The order of the rows has no
say: equal lengths are ordered by id. A plan is a table of PLAN_SCHEMA, one row per window, the rows of a shard together.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.member import ROW_PATTERN
from pipeline.audio.wire import MAX_SPLIT_CHANNELS
from pipeline.config import PlanConfig
from pipeline.metrics.shares import Shares, add_shares, duration_shares, language_shares, more_channels_s
from pipeline.records import SPLIT, Recording, Shard, Window

PLAN_SCHEMA = pa.schema(
    [
        ("shard_index", pa.int64()),
        ("shard_id", pa.string()),
        ("id", pa.string()),
        ("uri", pa.string()),
        ("offset_s", pa.float64()),
        ("duration_s", pa.float64()),  # given or probed; null: unknown, decided when decoded
        ("language", pa.string()),
        ("task", pa.string()),
        ("target_language", pa.string()),
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
        ("split_channels", pa.int32()),  # as many are expected to be kept apart; 1: one, or all mixed
    ]
)

_ROW_COLUMNS = (
    "id",
    "uri",
    "offset_s",
    "language",
    "task",
    "target_language",
    "keywords",
    "reference_text",
    "channel",
    "speakers",
    "extra",
    "size_bytes",
    "etag",
)
# What a plan is made from: a row's own columns and how it is cut.
ROWS_SCHEMA = pa.schema(
    [
        *(PLAN_SCHEMA.field(name) for name in _ROW_COLUMNS),
        ("duration_s", pa.float64()),  # given or probed; 0: unknown
        ("open_end", pa.bool_()),
        ("window_count", pa.int32()),
        ("window_s", pa.float64()),  # of each; 0: unknown
        ("split_channels", pa.int32()),
        ("place", pa.string()),  # in a Parquet file, else empty: rows of a row group stay together, in its order
    ]
)
# What a shard's id stands for: all that its text, and the scoring of its text, depends on.
_HASHED = (
    *("id", "uri", "offset_s", "duration_s", "language", "task", "target_language", "keywords", "reference_text"),
    *("channel", "speakers"),
    *("window_index", "window_count", "start_s", "end_s", "open_end", "size_bytes", "etag"),
)

_BLOCK_WINDOWS = 20_000
# A recording whose header could not be read may be of any length: few of them share a shard.
_UNKNOWN_S = 60.0
# Of a recording to be split that was never opened: what is recorded that way is mostly calls, a side on each channel.
_LIKELY_CHANNELS = 2
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
    more_channels_s: float = 0.0  # beyond audio_s: the second channel and further ones of recordings that are split


def plan_table(rows: pa.Table, config: PlanConfig, first_index: int = 0, max_audio_s: float = 86_400.0) -> pa.Table:
    """The plan of manifest rows (MANIFEST_SCHEMA, with the columns of `probe_missing` where it was needed), in memory.

    Shards are numbered from `first_index`. A recording longer than `max_audio_s` stays one window, which the decoder
    refuses. Ids must be unique. The same rows in any order give the same table.
    """
    ordered = in_plan_order(plan_rows(rows, config, max_audio_s))
    return pa.concat_tables([PLAN_SCHEMA.empty_table(), *plan_blocks([ordered], config, first_index)])


def plan_rows(rows: pa.Table, config: PlanConfig, max_audio_s: float = 86_400.0) -> pa.Table:
    """Manifest rows as ROWS_SCHEMA: what a plan takes from them, and the windows of each."""
    known = rows["duration_s"]
    if "probe_duration_s" in rows.column_names:
        known = pc.coalesce(known, rows["probe_duration_s"])
    seconds = pc.fill_null(known, 0.0).to_numpy()
    seconds = np.where(seconds > 0, seconds, 0.0)
    channels = _split_channels(rows)
    counts = _window_counts(seconds, channels, config, max_audio_s)
    columns = {
        **{name: rows[name] for name in _ROW_COLUMNS if name in rows.column_names},
        "duration_s": pa.array(seconds),
        "open_end": pc.is_null(rows["duration_s"]),
        "window_count": pa.array(counts),
        "window_s": pa.array(seconds / counts),
        "split_channels": pa.array(channels),
        "place": _places(rows["uri"]),
    }
    filled = [columns.get(field.name, pa.nulls(rows.num_rows, field.type)) for field in ROWS_SCHEMA]
    return pa.table(filled, schema=ROWS_SCHEMA)


def in_plan_order(rows: pa.Table) -> pa.Table:
    """Rows of ROWS_SCHEMA as a plan has them: longest windows first, equals by id. In one piece.

    Rows that lie in Parquet come last, in the order in which they lie there: a worker reads a row group forward.
    """
    rows = rows.combine_chunks()  # `take` is slow on many
    by_length = [("place", "ascending"), ("window_s", "descending"), ("id", "ascending")]
    return rows.take(pc.sort_indices(rows, sort_keys=by_length))


def _places(uris: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if not pc.any(pc.match_substring(uris, "#group=")).as_py():
        return pa.repeat("", len(uris))
    found = pc.extract_regex(uris, ROW_PATTERN)
    row = pc.utf8_lpad(pc.struct_field(found, "row"), 9, "0")
    return pc.fill_null(pc.binary_join_element_wise(pc.struct_field(found, "group"), row, "&"), "")


def plan_blocks(ordered: Iterable[pa.Table], config: PlanConfig, first_index: int = 0) -> Iterator[pa.Table]:
    """The plan in pieces of whole shards, made as they are asked for. `ordered`: rows of ROWS_SCHEMA in the plan's order.

    In memory are a piece and the shard that is being filled, however many rows come. Where the pieces begin has no say
    in what the shards are: a shard is filled from its own first window on.
    """
    begun = None
    for windows in _windows(ordered):
        block = windows if begun is None else pa.concat_tables([begun, windows]).combine_chunks()
        edges = np.append(_shard_starts(_pcm_s(block), config), block.num_rows)
        # The last shard may take more of what comes next.
        begun, edges = block.slice(edges[-2]), edges[:-1]
        if len(edges) > 1:
            yield _with_shards(block.slice(0, edges[-1]), edges, first_index)
            first_index += len(edges) - 1
    if begun is not None:
        yield _with_shards(begun, np.array([0, begun.num_rows]), first_index)


def _split_channels(rows: pa.Table) -> _Ints:
    """How many channels of each row will be kept apart, as far as its header has told."""
    likely = pa.repeat(pa.scalar(_LIKELY_CHANNELS, pa.int32()), rows.num_rows)
    if "probe_channels" in rows.column_names:
        likely = pc.coalesce(rows["probe_channels"], likely)
    is_split = pc.fill_null(pc.equal(rows["channel"], SPLIT), False).to_numpy(zero_copy_only=False)
    return np.where(is_split, np.clip(likely.to_numpy(zero_copy_only=False), 1, MAX_SPLIT_CHANNELS), 1).astype(np.int32)


def _window_counts(duration_s: _Floats, channels: _Ints, config: PlanConfig, max_audio_s: float) -> _Ints:
    # Not so short that the seams of a window would meet.
    longest_s = np.maximum(config.window_s / channels, min(2 * config.overlap_s, config.window_s))
    counts = np.ceil(np.where(duration_s <= max_audio_s, duration_s, 0.0) / longest_s)
    return np.maximum(counts, 1).astype(np.int32)


def _pcm_s(windows: pa.Table) -> _Floats:
    """Seconds of samples that each window may become."""
    lengths_s = windows["window_s"].to_numpy()
    seconds: _Floats = np.where(lengths_s > 0, lengths_s, _UNKNOWN_S) * windows["split_channels"].to_numpy()
    return seconds


def _shard_starts(lengths_s: _Floats, config: PlanConfig) -> _Ints:
    """Where shards begin when windows fill them in order."""
    limit = int(config.shard_s * _TICKS_PER_S)
    ticks = lengths_s * _TICKS_PER_S
    ends = np.cumsum(np.minimum(np.ceil(ticks, out=ticks), limit, out=ticks), dtype=np.int64).data  # items: plain ints

    def fill() -> Iterator[int]:
        start, filled = 0, 0
        while start < len(ends):
            yield start
            most = min(start + config.max_windows_per_shard, len(ends))
            start = bisect_right(ends, filled + limit, start + 1, most)
            filled = ends[start - 1]

    return np.fromiter(fill(), np.int64)


def _windows(ordered: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The windows of the rows, _BLOCK_WINDOWS or fewer at a time: those of a row after each other, equally long."""
    for rows in ordered:
        counts = rows["window_count"].to_numpy()
        row = np.repeat(np.arange(len(counts)), counts)
        nth = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
        for start in range(0, len(row), _BLOCK_WINDOWS):
            block = slice(start, start + _BLOCK_WINDOWS)
            yield _cut(rows.take(pa.array(row[block])), nth[block])


def _cut(table: pa.Table, nth: _Ints) -> pa.Table:
    """Rows, one per window, as windows: number `nth` of each row's."""
    duration_s, counts = table["duration_s"].to_numpy(), table["window_count"].to_numpy()
    added = {
        "duration_s": pa.array(duration_s, mask=duration_s == 0),
        "window_index": pa.array(nth, pa.int32()),
        "start_s": pa.array(duration_s * (nth / counts)),
        "end_s": pa.array(duration_s * ((nth + 1) / counts)),  # of the last: the duration itself
    }
    table = table.drop_columns("duration_s")
    for name, column in added.items():
        table = table.append_column(name, column)
    return table.combine_chunks()


def _with_shards(windows: pa.Table, edges: _Ints, first_index: int) -> pa.Table:
    """The block as PLAN_SCHEMA: window rows with the number and the id of their shard."""
    joined = spelled(windows, _HASHED)
    offsets = np.frombuffer(joined.buffers()[1], np.int32)
    text = memoryview(joined.buffers()[2])
    ids = [
        f"{first_index + shard:05d}-{hashlib.sha256(text[offsets[start] : offsets[stop]]).hexdigest()[:8]}"
        for shard, (start, stop) in enumerate(pairwise(edges))
    ]
    shard = np.repeat(np.arange(len(ids)), np.diff(edges))
    windows = windows.append_column("shard_index", pa.array(first_index + shard))
    return windows.append_column("shard_id", pa.array(ids).take(pa.array(shard))).select(PLAN_SCHEMA.names)


def spelled(table: pa.Table, names: Iterable[str]) -> pa.Array:
    """Each row's values in some columns as one string; floats by their bits, so that no printing can round them."""
    columns = []
    for name in names:
        column = table[name]
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
        task=row["task"],
        target_language=row["target_language"],
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
        more_channels_s=more_channels_s(table),
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
        more_channels_s=one.more_channels_s + other.more_channels_s,
    )
