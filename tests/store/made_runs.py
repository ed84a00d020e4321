"""A small planned run in a folder, with parts made from plain rows: for tests of the ledger, verify and finalize."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from pipeline.config import PlanConfig, RunConfig, StoreConfig
from pipeline.plan import plan_table
from pipeline.records import EngineStats, Failure, RunIdentity, Segment, Shard, Span, Transcript, Window
from pipeline.schema import SCHEMA_VERSION, transcripts_table
from pipeline.source.rows import MANIFEST_SCHEMA
from pipeline.store.ledger import Ledger
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import encode_part, publish_part
from pipeline.store.plan_file import write_plan_file

IDENTITY = RunIdentity("made-0", "0", "fake", "fake", "1")
CONFIG = RunConfig(manifest="m.jsonl", output="out")
PLAN = PlanConfig(window_s=60, shard_s=60, overlap_s=4)


def manifest_rows(durations_s: dict[str, float]) -> pa.Table:
    rows = [
        {"id": name, "uri": f"/a/{name}", "offset_s": 0.0, "duration_s": s, "keywords": [], "extra": []}
        for name, s in durations_s.items()
    ]
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def made_run(folder: Path, durations_s: dict[str, float]) -> Ledger:
    """A ledger whose plan holds these recordings."""
    ledger = Ledger(ObjectStore.open(str(folder), StoreConfig()))
    add_plan(ledger, durations_s, first_index=0)
    return ledger


def add_plan(ledger: Ledger, durations_s: dict[str, float], first_index: int) -> None:
    table = plan_table(manifest_rows(durations_s), PLAN, first_index)
    header = {
        "manifest": "m",
        "manifest_digest": "d",
        "fingerprint": "0",
        "schema_version": SCHEMA_VERSION,
        "model_revision": "1",
        "config": {},
    }
    ledger.add_plan_part(len(ledger.plan_parts()), write_plan_file([table]), header)


def row(window: Window, failed: bool = False) -> Transcript:
    """What a window would give: its own id as text."""
    length_s = window.end_s - window.start_s
    segment = Segment(0, window.start_s, window.end_s, f"{window.recording.id} {window.index}")
    return Transcript(
        id=window.recording.id,
        uri=window.recording.uri,
        status="failed" if failed else "ok",
        offset_s=0.0,
        duration_s=0.0 if failed else length_s,
        text="" if failed else segment.text,
        segments=() if failed else (segment,),
        spans=(Span(window.start_s, window.end_s, "failed"),) if failed else (),
        failure=Failure("decode", "not_audio", "It is no audio.") if failed else None,
        language="en",
        reference_text=None,
        warnings=(),
        flags=(),
        word_errors=None,
        char_errors=None,
        normalizer=None,
        decode_s=0.1,
        engine_s=0.5,
        window_index=window.index,
        window_count=window.count,
        window_start_s=window.start_s,
        extra={},
    )


def part_bytes(shard: Shard, failed: Iterable[str] = (), rows: list[Transcript] | None = None) -> bytes:
    made = rows if rows is not None else [row(window, window.recording.id in failed) for window in shard.windows]
    stats = EngineStats(
        1.0,
        0.25,
        shard.audio_s,
        padded_s=shard.audio_s + 1,
        batches=1,
        draft_s=shard.audio_s / 4,
        drafted_tokens=8.0,
        foretold_tokens=6.0,
    )
    return encode_part(transcripts_table(made, IDENTITY, shard.shard_id), stats)


def publish_all(ledger: Ledger, failed: Iterable[str] = ()) -> None:
    for shard in ledger.shards():
        publish_part(ledger.store, shard.shard_id, part_bytes(shard, failed))
