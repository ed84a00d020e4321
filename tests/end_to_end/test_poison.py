"""Recordings that end the process of the engine: the run ends, they alone fail, and few workers die of each."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from events_read import events_in, named
from running import fake_settings, quarry, table

from pipeline.engines.fake import ChunkNote

PEAK, POISON_PEAK = 9_000, 12_345


def archive_of(folder: Path, count: int, poisonous: set[int]) -> Path:
    """Recordings of a second; the fake engine ends its process over those with one peak."""
    folder.mkdir()
    noise = np.random.default_rng(0)
    rows = []
    for number in range(count):
        samples = noise.integers(-8_000, 8_000, 16_000).astype(np.int16)
        samples[noise.integers(16_000)] = POISON_PEAK if number in poisonous else PEAK
        soundfile.write(folder / f"{number:04d}.wav", samples, 16_000)
        rows.append({"id": f"{number:04d}", "audio_filepath": f"{number:04d}.wav", "duration": 1.0})
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "manifest.jsonl"


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("segfault", 60),
        *(pytest.param(kind, 2_000, marks=pytest.mark.slow) for kind in ("segfault", "exit", "kill", "loop")),
    ],
)
@pytest.mark.usefixtures("ray_cluster")
def test_exactly_the_culprits_fail(tmp_path: Path, kind: str, count: int) -> None:
    poisonous = {count - 20} if count < 100 else {7, count - 20}  # a culprit costs three starts of a worker
    manifest = archive_of(tmp_path / "archive", count, poisonous)
    settings = fake_settings(
        manifest,
        tmp_path / "out",
        **{
            "chunk.vad": "none",
            "plan.shard_s": 30 if count < 100 else 250,
            "engine.options": f"{{poison_on_peak: {POISON_PEAK}, poison: {kind}, diary: {tmp_path / 'diary'}}}",
            "batch.timeout_s": 5,
            "batch.timeout_per_audio_s": 0,
            "runtime.kind": "ray",
            "runtime.engine_cpus": 0.2,
            "runtime.decode_workers": 1 if count < 100 else "null",
            "runtime.events": tmp_path / "events.jsonl",
        },
    )
    done = quarry("run", *settings)
    assert done.returncode == 1, done.stderr
    rows = table(tmp_path / "out").to_pylist()
    failed = {int(row["id"]): row["failure"]["code"] for row in rows if row["status"] == "failed"}
    assert failed == dict.fromkeys(poisonous, "poison")
    assert len(rows) == count
    assert all(row["text"] for row in rows if row["status"] == "ok")
    deaths = deaths_of(manifest.parent, poisonous, tmp_path / "diary")
    print(f"{kind}, {count} recordings: deaths of each culprit {deaths}")
    assert all(1 < number <= 3 for number in deaths.values()), deaths
    events = events_in(tmp_path / "events.jsonl")
    assert sum(event["rows"] for event in named(events, "poison")) == len(poisonous)
    # Where too few shards are left for a new worker to finish one, the next pass tells of them.
    assert any(event["stage"] == "engine" for event in named(events, "worker_died")) or named(events, "shards_lost")
    assert events[-1]["exit_code"] == 1
    assert quarry("verify", *settings).returncode == 0


def deaths_of(archive: Path, poisonous: set[int], diary: Path) -> dict[int, int]:
    """How many processes took each culprit in; none of them lived to take in anything else."""
    notes = ChunkNote.read(diary)
    deaths = {}
    for number in poisonous:
        samples, _ = soundfile.read(archive / f"{number:04d}.wav", dtype="int16")
        digest = hashlib.sha256(samples.tobytes()).hexdigest()
        deaths[number] = sum(note.digest == digest for note in notes)
        last_calls = {note.pid: note.call for note in notes}  # a later line takes the place of an earlier one
        assert all(last_calls[note.pid] == note.call for note in notes if note.digest == digest), "one of them lived on"
    return deaths
