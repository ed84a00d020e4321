"""One export from the snapshot to the files. A row group and a few files are in memory, however large the run is."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from pipeline.config import StoreConfig
from pipeline.errors import RunError
from pipeline.export.conditions import expression_of
from pipeline.export.manifests import nemo, pairs
from pipeline.export.names import safe_name
from pipeline.export.nist import ctm, rttm
from pipeline.export.options import ExportOptions
from pipeline.export.rendered import Rendered
from pipeline.export.subtitles import srt, vtt
from pipeline.export.whisper_files import tsv, whisper_json
from pipeline.export.writing import INDEX_ROWS, Files, Put, Putter, claim
from pipeline.reading import RunTable, snapshot_of, table_of
from pipeline.records import Transcript
from pipeline.schema import transcript_of
from pipeline.store.objects import ObjectStore

Render = Callable[[Transcript, ExportOptions], Rendered]

# One file per recording, or files of many recordings with this suffix.
PER_RECORDING: dict[str, Render] = {"srt": srt, "vtt": vtt, "tsv": tsv, "json": whisper_json}
GATHERED: dict[str, tuple[Render, str]] = {
    "ctm": (ctm, "ctm"),
    "rttm": (rttm, "rttm"),
    "nemo": (nemo, "jsonl"),
    "pairs": (pairs, "jsonl"),
}
_BATCH_ROWS = 64  # a recording of ten hours is megabytes of Python objects


@dataclass
class Exported:
    """What an export did. `left_out` counts recordings (in pairs, segments; in rttm, segments) by reason."""

    uri: str
    snapshot: int
    recordings: int = 0
    written: int = 0  # of them, those of which something is in a file
    left_out: Counter[str] = field(default_factory=Counter)
    outcomes: Mapping[Put, int] = field(default_factory=dict)


def export(store: ObjectStore, config: StoreConfig, options: ExportOptions) -> Exported:
    """Write the files of a run's transcripts; `store` is rooted at the run.

    Raises ConfigError for a condition, RunError where there is no finished run or another export in the way, StoreError.
    """
    snapshot = snapshot_of(store, options.snapshot)
    rows = table_of(store, snapshot)
    identity = {"run_id": snapshot.run["run_id"], "snapshot": snapshot.number, **options.relevant()}
    expression_of(options.where, rows.schema)  # a condition that cannot be is told before anything is written
    target = _target(store, config, options, identity)
    claim(target, options.format, identity)
    done = Exported(str(target), snapshot.number)
    with Putter(target) as putter:
        _Export(putter, options, done).take(rows)
    done.outcomes = putter.outcomes
    if putter.others:
        names = ", ".join(putter.others)
        raise RunError(
            f"{putter.outcomes['other']} files in {target} stood there with other content and were left so ({names}); "
            "give --to a folder of its own."
        )
    return done


def _target(
    store: ObjectStore, config: StoreConfig, options: ExportOptions, identity: Mapping[str, object]
) -> ObjectStore:
    """`--to`, with the run's storage options if it is the same kind of store; else a folder inside the run."""
    if options.to is None:
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
        return store.below(f"exports/{options.format}-{identity['snapshot']:05d}-{digest}")
    if "://" not in options.to:
        return ObjectStore.open(os.path.abspath(options.to), StoreConfig())
    same_kind = options.to.partition("://")[0] == store.uri.partition("://")[0]
    return ObjectStore.open(options.to, config if same_kind else StoreConfig())


class _Export:
    """The recordings of one export, in the table's order."""

    def __init__(self, putter: Putter, options: ExportOptions, done: Exported) -> None:
        self._putter, self._options, self._done = putter, options, done
        self._index = Files(putter, f"_index-{options.format}", "jsonl", INDEX_ROWS)
        self._files: Files | None = None
        if options.format in PER_RECORDING:
            self._render = PER_RECORDING[options.format]
        else:
            self._render, suffix = GATHERED[options.format]
            self._files = Files(putter, options.format, suffix)

    def take(self, rows: RunTable) -> None:
        """Every row that meets the conditions."""
        for batch in rows.batches(where=self._options.where, rows=_BATCH_ROWS):
            for row in batch.to_pylist():
                self._take(transcript_of(row))
        for files in (self._files, self._index):
            if files is not None:
                files.close()

    def _take(self, transcript: Transcript) -> None:
        if transcript.status in ("failed", "skipped"):
            rendered = Rendered(None, {transcript.status: 1})
        else:
            rendered = self._render(transcript, self._options)
        key = None if rendered.text is None else self._write(transcript.id, rendered.text)
        self._done.recordings += 1
        self._done.written += key is not None
        self._done.left_out.update(rendered.left_out)
        entry = {"id": transcript.id, "file": key, "left_out": dict(rendered.left_out)}
        self._index.add(json.dumps(entry, ensure_ascii=False) + "\n")

    def _write(self, recording_id: str, text: str) -> str:
        if self._files is not None:
            return self._files.add(text)
        key = f"{safe_name(recording_id)}.{self._options.format}"
        self._putter.put(key, text.encode())
        return key
