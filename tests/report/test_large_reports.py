"""A page of millions of segments: memory stays that of a few, and time grows with the rows and no faster."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from finished_run import IDENTITY
from made_pages import COST, SESSIONS, shard_rows

from pipeline.config import RunConfig, StoreConfig
from pipeline.metrics.summary import RunTotals
from pipeline.schema import FAILURES, SEGMENTS, TRANSCRIPTS
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import SHARDS, Snapshot
from pipeline.store.tables import TableWriter

_SEGMENTS_EACH = 4
_CHUNK = 20_000  # recordings made at once
_MEASURE = """
import json, re, sys, time
from pathlib import Path
import pyarrow.dataset
from pipeline.config import StoreConfig
from pipeline.report.facts import gather
from pipeline.report.page import page
from pipeline.report.snippets import no_audio
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import latest_snapshot

def resident(name):
    return int(re.search(rf"{name}:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

store = ObjectStore.open(sys.argv[1], StoreConfig())
snapshot = latest_snapshot(store)
before_mib, before_s = resident("VmRSS"), time.process_time()
text = page(gather(store, snapshot, 24), no_audio)
cpu_s = time.process_time() - before_s
print(json.dumps({"cpu_s": cpu_s, "grown_mib": resident("VmHWM") - before_mib, "bytes": len(text)}))
"""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is measured as Linux tells it")


def filled(schema: pa.Schema, rows: int, columns: dict[str, Any]) -> pa.Table:
    """A table with these columns; the others are null."""
    arrays = [
        pa.array(columns[field.name], field.type) if field.name in columns else pa.nulls(rows, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def transcripts(first: int, count: int) -> pa.Table:
    numbers = np.arange(first, first + count)
    random = np.random.default_rng(first)
    pairs = [[("site", f"studio {number % 9}"), ("take", str(number))] for number in numbers.tolist()]
    empty: list[list[Any]] = [[]] * count
    columns = {
        "id": [f"recording-{number:09d}" for number in numbers.tolist()],
        "uri": [f"s3://bucket/{number:09d}.flac" for number in numbers.tolist()],
        "status": ["ok"] * count,
        "language": ["en"] * count,
        "offset_s": np.zeros(count),
        "duration_s": random.lognormal(3.0, 1.0, count),
        "decode_s": np.full(count, 0.1),
        "engine_s": np.full(count, 0.1),
        "segments": empty,
        "spans": empty,
        "flags": empty,
        "word_substitutions": random.integers(0, 4, count),
        "word_deletions": np.zeros(count, np.int64),
        "word_insertions": np.zeros(count, np.int64),
        "word_reference_length": np.full(count, 40),
        "extra": pairs,
    }
    return filled(TRANSCRIPTS, count, columns)


def segments(first: int, count: int) -> pa.Table:
    rows = count * _SEGMENTS_EACH
    random = np.random.default_rng(first)
    confidence = random.random(rows)
    names = np.repeat([f"recording-{number:09d}" for number in range(first, first + count)], _SEGMENTS_EACH)
    starts = np.tile(np.arange(_SEGMENTS_EACH) * 5.0, count)
    columns = {
        "recording_id": names,
        "id": np.tile(np.arange(_SEGMENTS_EACH), count),
        "start_s": starts,
        "end_s": starts + 5.0,
        "text": ["what somebody said in about five seconds of time, more or less"] * rows,
        "confidence": confidence,
        "flags": [["low_confidence"] if one < 0.2 else [] for one in confidence.tolist()],
    }
    return filled(SEGMENTS, rows, columns)


def write_large_run(folder: Path, recordings: int) -> None:
    store = ObjectStore(str(folder), StoreConfig())
    writers = {
        name: TableWriter(store, f"tables/0/{name}", schema)
        for name, schema in {
            "transcripts": TRANSCRIPTS,
            "segments": SEGMENTS,
            "failures": FAILURES,
            "shards": SHARDS,
        }.items()
    }
    totals = RunTotals()
    totals.add(TRANSCRIPTS.empty_table())
    for first in range(0, recordings, _CHUNK):
        writers["transcripts"].add(transcripts(first, min(_CHUNK, recordings - first)))
        writers["segments"].add(segments(first, min(_CHUNK, recordings - first)))
    writers["shards"].add(shard_rows(12))
    for writer in writers.values():
        writer.close()
    config = RunConfig(manifest="/archive/manifest.jsonl", output="/out").public()
    run = {
        **asdict(IDENTITY),
        "uri": str(folder),
        "config": config,
        "totals": totals.as_dict(),
        "sessions": SESSIONS,
        "cost": COST,
    }
    snapshot = Snapshot(1, "tables/0", {name: writer.files for name, writer in writers.items()}, run)
    store.put_if_absent("snapshots/00001.json", json.dumps(asdict(snapshot)).encode())


def measured(folder: Path) -> dict[str, float]:
    """CPU seconds and growth of a process of its own that makes the page."""
    done = subprocess.run([sys.executable, "-c", _MEASURE, str(folder)], capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def test_ten_thousand_segments_take_a_second(tmp_path: Path) -> None:
    write_large_run(tmp_path, 2_500)
    found = measured(tmp_path)
    assert found["cpu_s"] < 3
    assert 1 < found["grown_mib"] < 150
    assert found["bytes"] < 200_000


@pytest.mark.slow
def test_twice_a_million_segments_take_no_more_memory_and_no_more_time_each(tmp_path: Path) -> None:
    """Up to about a million, memory grows with the one file that is read at a time (64 MiB of rows)."""
    found = []
    for million in (1, 2):
        write_large_run(tmp_path / str(million), million * 1_000_000 // _SEGMENTS_EACH)
        found.append(measured(tmp_path / str(million)))
    print(found)
    one, two = found
    assert two["grown_mib"] < one["grown_mib"] * 1.25 + 30
    assert two["grown_mib"] < 400
    assert two["cpu_s"] < 2 * 1.5 * one["cpu_s"]
    assert two["bytes"] < 200_000
