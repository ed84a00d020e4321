"""What a report says of a run, gathered from a snapshot in one pass over each table; memory does not grow with the run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.reading import RunTable, table_of
from pipeline.report import slices as slicing
from pipeline.report import waiting as waits
from pipeline.report.doubts import SEGMENT_COLUMNS, SPAN_COLUMNS, Doubt, Doubts, located
from pipeline.report.histogram import CONFIDENCE_EDGES, DURATION_EDGES_S, Histogram
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot, latest_snapshot

_ROWS = 8_000
_MOST_CODES, _EXAMPLES = 60, 3
_MOST_PASSES = 20


@dataclass
class FailureGroup:
    """Recordings that failed, or are not whole, with one code."""

    stage: str
    failed: int = 0
    partial: int = 0
    examples: list[dict[str, Any]] = field(default_factory=list)  # recording_id, uri, message

    @property
    def count(self) -> int:
        """Both together."""
        return self.failed + self.partial


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything a page is made of."""

    snapshot: Snapshot
    durations: Histogram
    confidences: Histogram
    slices: dict[str, list[slicing.Slice]]
    slices_left_out: list[str]
    doubts: list[Doubt]
    failures: dict[str, FailureGroup]
    waiting: waits.Waiting
    second_passes: list[dict[str, Any]]

    @property
    def run(self) -> dict[str, Any]:
        """The snapshot's run.json."""
        return self.snapshot.run


def gather(store: ObjectStore, snapshot: Snapshot, most_doubts: int) -> Facts:
    """Read the tables of a snapshot; `store` is rooted at the run. Raises StoreError."""
    durations, slices, doubts = Histogram(DURATION_EDGES_S), slicing.Slices(), Doubts(most_doubts)
    columns = list(dict.fromkeys([*slicing.COLUMNS, *SPAN_COLUMNS]))
    transcripts = table_of(store, snapshot, "transcripts")
    for batch in transcripts.batches(columns, rows=_ROWS):
        durations.add(pc.if_else(pc.greater(batch["duration_s"], 0.0), batch["duration_s"], None))
        slices.add(batch)
        doubts.add_spans(batch)
    confidences = Histogram(CONFIDENCE_EDGES)
    for batch in table_of(store, snapshot, "segments").batches(SEGMENT_COLUMNS, rows=_ROWS):
        confidences.add(batch["confidence"])
        doubts.add_segments(batch)
    return Facts(
        snapshot=snapshot,
        durations=durations,
        confidences=confidences,
        slices=slices.tables(),
        slices_left_out=sorted(slices.left_out),
        doubts=_located(doubts.worst(), transcripts),
        failures=_failures(table_of(store, snapshot, "failures").batches(rows=_ROWS)),
        waiting=waiting_of(store, snapshot),
        second_passes=_second_passes(store),
    )


def _located(worst: list[Doubt], transcripts: RunTable) -> list[Doubt]:
    wanted = pc.field("id").isin(pa.array(sorted({doubt.recording_id for doubt in worst}), pa.string()))
    return located(worst, transcripts.batches(["id", "uri", "offset_s"], where=wanted) if worst else [])


def _failures(batches: Iterator[pa.RecordBatch]) -> dict[str, FailureGroup]:
    """By code, the most frequent first, each with a few examples."""
    found: dict[str, FailureGroup] = {}
    for batch in batches:
        counts = pa.table(batch.select(["code", "stage", "status"])).group_by(["code", "stage", "status"])
        for row in counts.aggregate([([], "count_all")]).to_pylist():
            if row["code"] in found or len(found) < _MOST_CODES:
                group = found.setdefault(row["code"], FailureGroup(row["stage"]))
                group.failed += row["count_all"] if row["status"] == "failed" else 0
                group.partial += row["count_all"] if row["status"] != "failed" else 0
        for code, group in found.items():
            missing = _EXAMPLES - len(group.examples)
            if missing > 0:
                some = batch.filter(pc.equal(batch["code"], code)).slice(0, missing)
                group.examples += some.select(["recording_id", "uri", "message"]).to_pylist()
    return dict(sorted(found.items(), key=lambda item: -item[1].count))


def waiting_of(store: ObjectStore, snapshot: Snapshot) -> waits.Waiting:
    """Who waited for whom, from the table of shards. Raises StoreError."""
    waiting = waits.Waiting(snapshot.run["sessions"])
    shards = table_of(store, snapshot, "shards")
    if set(waits.COLUMNS) <= set(shards.schema.names):  # snapshots from before the times were noted have none
        for batch in shards.batches(waits.COLUMNS, rows=_ROWS):
            waiting.add(batch)
    return waiting


def _second_passes(store: ObjectStore) -> list[dict[str, Any]]:
    """What the finished second passes say of themselves (`pipeline.second_pass.run`)."""
    folders = {
        info.key.split("/")[1] for info in store.list("second_pass/") if info.key.split("/")[2:3] == ["snapshots"]
    }
    found = []
    for folder in sorted(folders)[:_MOST_PASSES]:
        snapshot = latest_snapshot(store.below(f"second_pass/{folder}"))
        if snapshot:
            found.append({"id": folder, **snapshot.run})
    return found
