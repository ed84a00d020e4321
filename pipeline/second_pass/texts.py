"""The transcripts of a finished run, as the second pass sees them: streamed for a plan, read by row group for a shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot

_BATCH_ROWS = 1_000
_DIGEST_DIGITS = 24


@dataclass(frozen=True, slots=True)
class SourceText:
    """What was said in one recording, and in which stretches."""

    recording_id: str
    text: str
    segments: tuple[str, ...] = ()
    language: str | None = None
    status: str = "ok"  # of the transcript


@dataclass(frozen=True, slots=True)
class TextPlace:
    """Where a text stands in the run's tables, and what it was when the plan was made."""

    recording_id: str
    digest: str
    key: str
    row_group: int
    row: int  # in the row group
    chars: int


def text_digest(text: str, language: str | None) -> str:
    """24 hex digits of what is asked about: a text and its language."""
    return hashlib.sha256(json.dumps([text, language]).encode()).hexdigest()[:_DIGEST_DIGITS]


def _language(row: Mapping[str, Any]) -> str | None:
    """That of the text. A table of schema version 1 has only that of the speech."""
    language: str | None = row.get("text_language") or row["language"]
    return language


def stream_places(store: ObjectStore, snapshot: Snapshot) -> Iterator[TextPlace]:
    """Every recording of a run's snapshot, in its order. Holds a thousand texts at most. Raises StoreError."""
    for file in snapshot.files["transcripts"]:
        key = str(file["key"])
        with store.open_file(key) as opened:
            parquet = pq.ParquetFile(opened)
            for group in range(parquet.num_row_groups):
                row = 0
                columns = ["id", "text", "language", "text_language"]
                for batch in parquet.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns):
                    for found in batch.to_pylist():
                        digest = text_digest(found["text"], _language(found))
                        yield TextPlace(found["id"], digest, key, group, row, len(found["text"]))
                        row += 1


class TextReader:
    """Reads the texts of shards; keeps the latest row group, in which the next shard mostly lies too."""

    def __init__(self, store: ObjectStore) -> None:
        """`store` is rooted at the run."""
        self._store = store
        self._latest: tuple[tuple[str, int], pa.Table] | None = None

    def read(self, rows: Sequence[Mapping[str, Any]]) -> list[SourceText]:
        """The texts behind rows of a plan. Raises StoreError where they are no longer what was planned."""
        found = []
        for row in rows:
            table = self._row_group(row["key"], row["row_group"])
            (here,) = table.slice(row["row"], 1).to_pylist() or [None]
            if here is None or (here["id"], text_digest(here["text"], _language(here))) != (
                row["recording_id"],
                row["digest"],
            ):
                raise StoreError(
                    f"{row['key']} at {self._store} does not hold {row['recording_id']!r} as planned; restore it, "
                    "or give second_pass another `name`."
                )
            segments = tuple(segment["text"] for segment in here["segments"] or ())
            found.append(SourceText(here["id"], here["text"], segments, _language(here), here["status"]))
        return found

    def _row_group(self, key: str, group: int) -> pa.Table:
        if self._latest is None or self._latest[0] != (key, group):
            columns = ["id", "text", "language", "text_language", "status", "segments.list.element.text"]
            with self._store.open_file(key) as opened:
                self._latest = ((key, group), pq.ParquetFile(opened).read_row_group(group, columns=columns))
        return self._latest[1]
