"""A finished run of transcripts that a test makes up: the tables and the snapshot as `finalize` leaves them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from pipeline.config import StoreConfig
from pipeline.records import RunIdentity, Segment, Transcript, Word
from pipeline.schema import FAILURES, FINISHED, SEGMENTS, failures_table, segments_table, transcripts_table
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot
from pipeline.store.tables import TableWriter

IDENTITY = RunIdentity("made-up-0123456789ab", "0123456789ab", "fake", "fake", "0")


def transcript(recording_id: str, segments: Iterable[Segment] = (), **given: Any) -> Transcript:
    """A recording of ten seconds that went well, unless told otherwise."""
    found = tuple(segments)
    empty = dict.fromkeys(("failure", "language", "reference_text", "word_errors", "char_errors", "normalizer"))
    usual: dict[str, Any] = {
        **empty,
        "uri": f"/archive/{recording_id}.wav",
        "status": "ok",
        "offset_s": 0.0,
        "duration_s": 10.0,
        "text": " ".join(segment.text for segment in found),
        **dict.fromkeys(("spans", "warnings", "flags"), ()),
        "decode_s": 0.1,
        "engine_s": 0.5,
        "window_index": 0,
        "window_count": 1,
        "window_start_s": 0.0,
        "extra": {},
    }
    return Transcript(id=recording_id, segments=found, **{**usual, **given})


def said(text: str, start_s: float = 0.0, end_s: float = 10.0, number: int = 0, **given: Any) -> Segment:
    """A segment without words."""
    return Segment(number, start_s, end_s, text, **given)


def timed(text: str, start_s: float = 0.0, word_s: float = 0.5, **given: Any) -> Segment:
    """A segment whose words, parted at spaces, take `word_s` each."""
    speaker = given.get("speaker")
    words = [
        Word(word, start_s + i * word_s, start_s + (i + 1) * word_s, 0.5, speaker)
        for i, word in enumerate(text.split())
    ]
    return Segment(0, start_s, start_s + len(words) * word_s, text, words=tuple(words), **given)


def write_run(folder: str, files: Sequence[Sequence[Transcript]], number: int = 1, options: Any = None) -> ObjectStore:
    """Write a snapshot with one file of each table per list of transcripts; the store rooted at the run."""
    store = ObjectStore(folder, StoreConfig(storage_options=options or {}))
    tables = f"tables/{number:012d}"
    schemas = {"transcripts": FINISHED, "segments": SEGMENTS, "failures": FAILURES}
    named: dict[str, list[dict[str, Any]]] = {name: [] for name in schemas}
    for at, rows in enumerate(files):
        whole = transcripts_table(rows, IDENTITY, "00000-00000000")
        parts = {"transcripts": whole, "segments": segments_table(whole), "failures": failures_table(whole)}
        for name, table in parts.items():
            writer = TableWriter(store, f"{tables}/{name}/{at}", schemas[name])
            writer.add(table)
            writer.close()
            named[name] += writer.files
    snapshot = Snapshot(number, tables, named, {**asdict(IDENTITY), "uri": folder})
    store.put_if_absent(f"snapshots/{number:05d}.json", json.dumps(asdict(snapshot)).encode())
    return store
