"""What the end of a run of N recordings costs: finalize (tables and snapshot), finalize again, verify. Seconds, peak memory.

    python benchmarks/finalize.py --rows 1000000

The manifest is that of benchmarks/plan.py: utterances of seconds, and one recording of hours in a thousand. Parts are not
transcribed but made up, a segment with words for every 10 s; they are real parts in every other way. Each step is a process of
its own. On a local disk, without a sync for each part.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
from plan import write_manifest

from pipeline.config.file import load_config
from pipeline.plan import shards_of
from pipeline.prepare import open_ledger, prepare, write_plan
from pipeline.records import EngineStats, ErrorCounts, RunIdentity, Segment, Shard, Transcript, Window, Word
from pipeline.schema import transcripts_table
from pipeline.store.parts import encode_part, part_key

_SEGMENT_S = 10.0
_TEXT = "the words that were said in a recording of this archive"

_STEP = """
import json, sys, time
from pathlib import Path
from pipeline.config.file import load_config
from pipeline.prepare import prepare
step, config = sys.argv[1], load_config(None, sys.argv[2:])
run = prepare(config)
wall_s, cpu_s = time.perf_counter(), time.process_time()
if step == "verify":
    from pipeline.store.verify import verify
    found = verify(run.ledger)
    assert found.complete and not found.wrong
    said = f"{found.rows:,} rows in {found.shards:,} parts as planned"
else:
    from pipeline.store.snapshot import finalize
    snapshot = finalize(run.ledger, config, run.identity)
    said = f"snapshot {snapshot.number}, {snapshot.run['totals']['recordings']:,} recordings"
wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
peak_kb = Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]
print(json.dumps([wall_s, cpu_s, int(peak_kb) / 1024, said]))
"""


def main() -> None:
    """Plan, make parts up, measure each step once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        settings = make_run(Path(name), args.rows)
        print("| step | rows | seconds | CPU seconds | peak memory | it said |\n|---|---|---|---|---|---|", flush=True)
        for step in ("finalize", "finalize again", "verify"):
            command = [sys.executable, "-c", _STEP, step.split()[0], *settings]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr)
            wall_s, cpu_s, peak_mb, said = json.loads(done.stdout)
            print(f"| {step} | {args.rows:,} | {wall_s:.1f} | {cpu_s:.1f} | {peak_mb:,.0f} MB | {said} |", flush=True)


def make_run(folder: Path, rows: int) -> list[str]:
    """A run of which every shard has its part, and is not finalized; the settings that find it."""
    write_manifest(folder / "rows.parquet", rows)
    given = {"manifest": folder / "rows.parquet", "output": folder / "out", "runtime.kind": "local"}
    settings = [f"{key}={value}" for key, value in {**given, "engine.name": "fake", "engine.model": "fake"}.items()]
    config = load_config(None, settings)
    run = write_plan(prepare(config))
    ledger = open_ledger(config)
    with ProcessPoolExecutor(2) as pool:
        for _ in pool.map(_publish, _asked(ledger.planned_windows(), run.identity, ledger.store.uri)):
            pass
    return settings


def _asked(tables: Iterator[pa.Table], identity: RunIdentity, uri: str) -> Iterator[tuple[pa.Table, RunIdentity, str]]:
    for table in tables:
        yield table, identity, uri


def _publish(asked: tuple[pa.Table, RunIdentity, str]) -> None:
    """The parts of some shards, straight to the disk."""
    table, identity, uri = asked
    for shard in shards_of(table):
        path = Path(uri) / part_key(shard.shard_id)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(made_up(shard, identity))


def made_up(shard: Shard, identity: RunIdentity) -> bytes:
    """A part as a run would have published it."""
    rows = [_row(window) for window in shard.windows]
    return encode_part(
        transcripts_table(rows, identity, shard.shard_id), EngineStats(engine_s=1.0, audio_s=shard.audio_s)
    )


def _row(window: Window) -> Transcript:
    recording, length_s = window.recording, window.end_s - window.start_s
    count = max(1, round(length_s / _SEGMENT_S))
    bounds_s = [window.start_s + length_s * number / count for number in range(count + 1)]
    words = _TEXT.split()
    segments = tuple(
        Segment(
            number, start_s, end_s, _TEXT, "en", None, None, 0.9, (), tuple(Word(one, start_s, end_s) for one in words)
        )
        for number, (start_s, end_s) in enumerate(pairwise(bounds_s))
    )
    scored = window.count == 1 and recording.reference_text is not None
    return Transcript(
        id=recording.id,
        uri=recording.uri,
        status="ok",
        offset_s=recording.offset_s,
        duration_s=length_s,
        text=_TEXT,
        segments=segments,
        spans=(),
        failure=None,
        language="en",
        reference_text=recording.reference_text,
        warnings=(),
        flags=(),
        word_errors=ErrorCounts(3, 1, 0, 11) if scored else None,
        char_errors=ErrorCounts(9, 6, 3, 66) if scored else None,
        normalizer="none" if scored else None,
        decode_s=0.01,
        engine_s=0.01,
        window_index=window.index,
        window_count=window.count,
        window_start_s=window.start_s,
        extra=recording.extra,
    )


if __name__ == "__main__":
    main()
