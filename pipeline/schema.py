"""The shape of the output: one explicit Arrow schema, the same in every file even where a column is all null.

`parts/` rows and the finalized `transcripts` table share TRANSCRIPTS. `segments` and `failures` are flat views of it.
The description of every column stands in its field metadata; docs/output.md is generated from it.
Schema evolution adds nullable columns and raises SCHEMA_VERSION; it never renames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute

from pipeline.records import ErrorCounts, Failure, RunIdentity, Segment, Span, Transcript, Word

SCHEMA_VERSION = 2


def column(name: str, kind: pa.DataType, meaning: str) -> pa.Field:
    """A column with its meaning, in the field's metadata."""
    return pa.field(name, kind, metadata={"meaning": meaning})


WORD = pa.struct(
    [
        column("word", pa.string(), "the word as recognised"),
        column("start_s", pa.float64(), "seconds from the recording's start; null where the engine gives none"),
        column("end_s", pa.float64(), "seconds from the recording's start; null where the engine gives none"),
        column("confidence", pa.float32(), "0 to 1; null where the engine gives none"),
        column("speaker", pa.string(), "speaker label; null where the engine gives none"),
    ]
)

SEGMENT_FIELDS = [
    column("id", pa.int32(), "position in the recording, from 0"),
    column("start_s", pa.float64(), "seconds from the recording's start"),
    column("end_s", pa.float64(), "seconds from the recording's start"),
    column("text", pa.string(), "raw text, never normalised"),
    column("language", pa.string(), "language of the speech in the segment"),
    column("speaker", pa.string(), "speaker label; null where the engine gives none"),
    column("channel", pa.int32(), "channel it was heard on, from 0; null: all channels mixed"),
    column("confidence", pa.float32(), "mean token probability, 0 to 1, of the segment or its chunk; null: none given"),
    column("flags", pa.list_(pa.string()), "quality flags (quality.md)"),
    column("words", pa.list_(WORD), "word times, where the engine gives them"),
]
SEGMENT = pa.struct(SEGMENT_FIELDS)

SPAN = pa.struct(
    [
        column("start_s", pa.float64(), "seconds from the recording's start"),
        column("end_s", pa.float64(), "seconds from the recording's start"),
        column("kind", pa.string(), "non_speech | unheard: speech without text | failed"),
        column("channel", pa.int32(), "of a split recording: the channel; null: all that is heard of the recording"),
    ]
)

FAILURE_FIELDS = [
    column("stage", pa.string(), "manifest | fetch | decode | transcribe | publish"),
    column("code", pa.string(), "stable code, see pipeline/errors.py"),
    column("message", pa.string(), "one sentence"),
    column("attempts", pa.int32(), "how often it was tried"),
]

_ERROR_COUNTS = [
    column(f"{unit}_{part}", pa.int64(), meaning)
    for unit in ("word", "char")
    for part, meaning in (
        ("substitutions", f"{unit}s replaced, after normalisation; null: not scored"),
        ("deletions", f"{unit}s missing, after normalisation; null: not scored"),
        ("insertions", f"{unit}s too many, after normalisation; null: not scored"),
        ("reference_length", f"{unit}s in the normalised reference; null: not scored"),
    )
]

TRANSCRIPTS = pa.schema(
    [
        column("id", pa.string(), "recording id, as in the manifest"),
        column("uri", pa.string(), "where the audio lies; relative paths of the manifest made absolute"),
        column("status", pa.string(), "ok | partial | failed | skipped"),
        column("failure", pa.struct(FAILURE_FIELDS), "why it failed, wholly or in part; null when ok"),
        column("language", pa.string(), "language of the speech, given or detected"),
        column("task", pa.string(), "transcribe | translate"),
        column("text_language", pa.string(), "language of the text: that of the speech, or what it is translated into"),
        column("offset_s", pa.float64(), "where the recording starts inside its object"),
        column("duration_s", pa.float64(), "seconds of audio decoded"),
        column("text", pa.string(), "raw text, never normalised"),
        column("reference_text", pa.string(), "reference from the manifest"),
        column("segments", pa.list_(SEGMENT), "what was said when"),
        column("spans", pa.list_(SPAN), "what is in no segment: declared non-speech, unheard, or failed"),
        column(
            "warnings", pa.list_(pa.string()), "what was odd about the audio; keywords_ignored: the engine takes none"
        ),
        column("flags", pa.list_(pa.string()), "quality flags of the segments and spans, each once (quality.md)"),
        *_ERROR_COUNTS,
        column("normalizer", pa.string(), "what text and reference went through before they were compared"),
        column("decode_s", pa.float64(), "CPU seconds of the decoder"),
        column("engine_s", pa.float64(), "seconds of the engine, by share of the shard's audio"),
        column(
            "rtfx", pa.float64(), "duration_s (of each channel kept apart) / engine_s; null: the engine did nothing"
        ),
        column("engine", pa.string(), "engine name"),
        column("model", pa.string(), "model name or path"),
        column("model_revision", pa.string(), "revision or hash of the weights"),
        column("fingerprint", pa.string(), "of the settings that change text"),
        column("run_id", pa.string(), "the run that made the row"),
        column("shard_id", pa.string(), "the shard that held it (of a joined recording: the first)"),
        column("window_index", pa.int32(), "which window of a long recording; 0 in tables"),
        column("window_count", pa.int32(), "windows of the recording; 1 in tables"),
        column("window_start_s", pa.float64(), "where the window starts; 0 in tables"),
        column("schema_version", pa.int32(), "version of this schema"),
        column("extra", pa.map_(pa.string(), pa.string()), "columns of the manifest passed through"),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

# As they lie in finished tables: Hugging Face `datasets` knows no maps.
_MAP = pa.map_(pa.string(), pa.string())
_PAIRS = pa.list_(pa.struct([("key", pa.string()), ("value", pa.string())]))
FINISHED = TRANSCRIPTS.set(
    TRANSCRIPTS.get_field_index("extra"), column("extra", _PAIRS, "columns of the manifest passed through")
)

SEGMENTS = pa.schema(
    [
        column("recording_id", pa.string(), "id in transcripts"),
        *SEGMENT_FIELDS,
        column("run_id", pa.string(), "the run that made the row"),
    ],
    metadata=TRANSCRIPTS.metadata,
)
FAILURES = pa.schema(
    [
        column("recording_id", pa.string(), "id in transcripts"),
        column("uri", pa.string(), "where the audio lies"),
        column("status", pa.string(), "failed | partial"),
        *FAILURE_FIELDS,
        column("run_id", pa.string(), "the run that made the row"),
    ],
    metadata=TRANSCRIPTS.metadata,
)

_COUNT_PARTS = ("substitutions", "deletions", "insertions", "reference_length")


def transcripts_table(rows: Sequence[Transcript], identity: RunIdentity, shard_id: str) -> pa.Table:
    """Rows of one shard as a table of TRANSCRIPTS."""
    return pa.Table.from_pylist([_to_row(row, identity, shard_id) for row in rows], schema=TRANSCRIPTS)


def _to_row(row: Transcript, identity: RunIdentity, shard_id: str) -> dict[str, Any]:
    return {
        "id": row.id,
        "uri": row.uri,
        "status": row.status,
        "failure": asdict(row.failure) if row.failure else None,
        "language": row.language,
        "task": row.task,
        "text_language": row.text_language,
        "offset_s": row.offset_s,
        "duration_s": row.duration_s,
        "text": row.text,
        "reference_text": row.reference_text,
        "segments": [asdict(segment) for segment in row.segments],
        "spans": [asdict(span) for span in row.spans],
        "warnings": list(row.warnings),
        "flags": list(row.flags),
        **_counts_to_columns("word", row.word_errors),
        **_counts_to_columns("char", row.char_errors),
        "normalizer": row.normalizer,
        "decode_s": row.decode_s,
        "engine_s": row.engine_s,
        "rtfx": row.rtfx,
        **asdict(identity),
        "shard_id": shard_id,
        "window_index": row.window_index,
        "window_count": row.window_count,
        "window_start_s": row.window_start_s,
        "schema_version": SCHEMA_VERSION,
        "extra": list(row.extra.items()),
    }


def transcript_of(row: Mapping[str, Any]) -> Transcript:
    """One row of TRANSCRIPTS (as `Table.to_pylist` gives it) back to the record."""
    return Transcript(
        id=row["id"],
        uri=row["uri"],
        status=row["status"],
        offset_s=row["offset_s"],
        duration_s=row["duration_s"],
        text=row["text"],
        segments=tuple(_segment_of(segment) for segment in row["segments"]),
        spans=tuple(Span(**span) for span in row["spans"]),
        failure=Failure(**row["failure"]) if row["failure"] else None,
        language=row["language"],
        reference_text=row["reference_text"],
        warnings=tuple(row["warnings"]),
        flags=tuple(row["flags"]),
        word_errors=_counts_of("word", row),
        char_errors=_counts_of("char", row),
        normalizer=row["normalizer"],
        decode_s=row["decode_s"],
        engine_s=row["engine_s"],
        window_index=row["window_index"],
        window_count=row["window_count"],
        window_start_s=row["window_start_s"],
        extra=dict((pair["key"], pair["value"]) if isinstance(pair, dict) else pair for pair in row["extra"]),
        task=row.get("task") or "transcribe",  # tables from before rows could be translated have neither column
        target_language=row["text_language"] if row.get("task") == "translate" else None,
    )


def _segment_of(row: Mapping[str, Any]) -> Segment:
    segment = Segment(**{**row, "flags": tuple(row["flags"]), "words": ()})
    return replace(segment, words=tuple(Word(**word) for word in row["words"]))


def _counts_to_columns(unit: str, counts: ErrorCounts | None) -> dict[str, int | None]:
    return {f"{unit}_{part}": getattr(counts, part) if counts else None for part in _COUNT_PARTS}


def _counts_of(unit: str, row: Mapping[str, Any]) -> ErrorCounts | None:
    if row[f"{unit}_reference_length"] is None:
        return None
    return ErrorCounts(**{part: row[f"{unit}_{part}"] for part in _COUNT_PARTS})


def segments_table(transcripts: pa.Table) -> pa.Table:
    """The segments of a transcripts table, one row each."""
    lists = transcripts["segments"].combine_chunks()
    parent = pa.compute.list_parent_indices(lists)
    flat = lists.flatten()
    columns = [transcripts["id"].take(parent)]
    columns += [flat.field(index) for index in range(SEGMENT.num_fields)]
    columns.append(transcripts["run_id"].take(parent))
    return pa.table(columns, schema=SEGMENTS)


def failures_table(transcripts: pa.Table) -> pa.Table:
    """One row for every transcript that failed, wholly or in part."""
    failed = transcripts.filter(transcripts["failure"].is_valid())
    failure = failed["failure"].combine_chunks()
    columns = [failed["id"], failed["uri"], failed["status"]]
    columns += [failure.field(index) for index in range(len(FAILURE_FIELDS))]
    columns.append(failed["run_id"])
    return pa.table(columns, schema=FAILURES)


def with_maps(rows: pa.Table) -> pa.Table:
    """Rows of a finished table with `extra` as the map that it is; other rows as they are."""
    place = rows.schema.get_field_index("extra")
    if place < 0 or rows.schema.field(place).type != _PAIRS:
        return rows
    chunks = [_as_map(chunk) for chunk in rows.column(place).chunks]
    return rows.set_column(place, map_field(rows.schema.field(place)), pa.chunked_array(chunks, _MAP))


def map_field(field: pa.Field) -> pa.Field:
    """The field `extra` of a finished table as it is in memory; any other as it is."""
    return field.with_type(_MAP) if field.name == "extra" and field.type == _PAIRS else field


def _as_map(pairs: pa.ListArray) -> pa.MapArray:
    inner = pairs.flatten()
    lengths = pa.compute.fill_null(pa.compute.list_value_length(pairs), 0)
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pa.compute.cumulative_sum(lengths)])
    return pa.MapArray.from_arrays(offsets, inner.field("key"), inner.field("value"))
