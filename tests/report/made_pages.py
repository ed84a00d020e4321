"""A finished run with everything a page tells of, made up: tables, totals, sessions, times of shards."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from finished_run import IDENTITY, said, transcript

from pipeline.config import RunConfig, StoreConfig
from pipeline.metrics.summary import RunTotals
from pipeline.records import EngineStats, ErrorCounts, Failure, Span, Transcript
from pipeline.report.facts import Facts, gather
from pipeline.report.page import page
from pipeline.report.snippets import Listen, no_audio
from pipeline.schema import FAILURES, SEGMENTS, TRANSCRIPTS, failures_table, segments_table, transcripts_table
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import SHARDS, Snapshot
from pipeline.store.tables import TableWriter
from pipeline.text.flags import row_flags

BEGAN = datetime(2026, 11, 21, 7, 0, tzinfo=UTC)
SESSIONS = [
    {
        "started_at": (BEGAN + timedelta(hours=hour)).isoformat(timespec="seconds"),
        "first_commit_s": 10.0,
        "wall_s": 100.0,
        "audio_s": 600.0,
        "shards": 5,
        "engine_workers": 1,
        "hardware": "x86_64, 2 CPUs",
        "versions": {"python": "3.11.7", "quarry-asr": "0.1.0"},
    }
    for hour in (0, 5)
]
COST = {
    "expected": {"audio_h": 0.3, "engine_h": 0.02, "wall_h": 0.02, "usd": 0.02, "usd_per_audio_h": 0.0667},
    "spent": {"audio_h": 0.3, "engine_h": 0.06, "wall_h": 0.06, "usd": 0.06, "usd_per_audio_h": 0.2},
}


def scored_row(number: int, errors: int = 2, **given: Any) -> Transcript:
    """A recording with a reference of twenty words and one doubtful segment in it now and then."""
    flags = ("low_confidence",) if number % 7 == 0 else ()
    segments = [said(f"recording {number} says this", 0.0, 4.0, confidence=0.3 + number % 60 / 100, flags=flags)]
    counts = ErrorCounts(errors, 0, 0, 20)
    usual = {"language": "de" if number % 3 else "en", "duration_s": 3.0 + 40 * (number % 5), "flags": flags}
    columns = {"site": f"studio {number % 4}", "take": str(number)}
    return transcript(
        f"rec-{number:04d}",
        segments,
        **{**usual, "word_errors": counts, "char_errors": counts, "normalizer": "english", "extra": columns, **given},
    )


def failed_row(
    name: str, code: str = "not_found", message: str = "There is no object at this uri; upload it."
) -> Transcript:
    """A recording that could not be had."""
    return transcript(name, status="failed", duration_s=0.0, failure=Failure("fetch", code, message))


def usual_rows() -> list[Transcript]:
    """Two hundred recordings with failures, partial ones, unheard speech and most flags."""
    rows = [scored_row(number, errors=number % 4) for number in range(200)]
    loop = said("no no no " * 9, 1.0, 8.0, confidence=0.9, language="en", flags=("compressible", "repeated_ngrams"))
    rows.append(transcript("loops", [loop], flags=row_flags([loop], [])))
    rows.append(transcript("unheard", spans=(Span(2.0, 6.5, "unheard"),), flags=("empty_on_speech",)))
    rows += [failed_row(f"gone-{number}") for number in range(5)] + [failed_row("odd", "bad_header")]
    cut = Failure("decode", "truncated", "The audio ends at 3.2 s of 11.2 s; the object may be cut off.")
    return [*rows, transcript("cut", [said("half of it")], status="partial", failure=cut)]


def shard_rows(count: int = 12) -> pa.Table:
    """Shards done in turn in the two sessions, each waited for a little, and in line a while."""
    rows = []
    for number in range(count):
        begun = datetime.fromisoformat(SESSIONS[number % 2]["started_at"])
        rows.append(
            {
                "shard_id": f"{number:05d}-00000000",
                "engine_s": 8.0,
                "call_s": 10.0,
                "wait_s": 2.0,
                "queued_s": 4.0,
                "done_at": begun + timedelta(seconds=15 + 15 * (number // 2)),
            }
        )
    return pa.Table.from_pylist(rows, schema=SHARDS)


def write_whole_run(
    folder: Path | str, rows: Sequence[Transcript], shards: pa.Table | None = None, **more: Any
) -> ObjectStore:
    """Write tables and a snapshot with all that `finalize` puts there; `more` goes into run.json."""
    store = ObjectStore(str(folder), StoreConfig())
    totals = RunTotals()
    whole = transcripts_table(rows, IDENTITY, "00000-00000000")
    totals.add(whole)
    totals.add_engine(EngineStats(engine_s=80.0, wait_s=20.0, audio_s=500.0, padded_s=600.0, batches=9))
    tables = {
        "transcripts": (whole, TRANSCRIPTS),
        "segments": (segments_table(whole), SEGMENTS),
        "failures": (failures_table(whole), FAILURES),
        "shards": (shard_rows() if shards is None else shards, (SHARDS if shards is None else shards.schema)),
    }
    files = {}
    for name, (table, schema) in tables.items():
        writer = TableWriter(store, f"tables/0/{name}", schema)
        writer.add(table)
        writer.close()
        files[name] = writer.files
    config = RunConfig(manifest="/archive/manifest.jsonl", output="/out").public()
    run = {
        **asdict(IDENTITY),
        "uri": str(folder),
        "config": config,
        "totals": totals.as_dict(),
        "sessions": SESSIONS,
        "cost": COST,
    }
    snapshot = Snapshot(1, "tables/0", files, {**run, **more})
    store.put_if_absent("snapshots/00001.json", json.dumps(asdict(snapshot)).encode())
    return store


def facts_of(store: ObjectStore, most: int = 12) -> Facts:
    """What a page would tell of the run at `store`."""
    from pipeline.store.snapshot import latest_snapshot

    snapshot = latest_snapshot(store)
    assert snapshot is not None
    return gather(store, snapshot, most)


def page_of(store: ObjectStore, listen: Listen = no_audio, most: int = 12) -> str:
    """The page of the run at `store`."""
    return page(facts_of(store, most), listen)
