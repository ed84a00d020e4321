"""A manifest from a listing: every audio file below a folder or prefix with its length, as JSON Lines with NeMo's keys.

Headers are probed side by side, by ranges where the store is remote; rows are written as they come, in the order of the paths.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any

import fsspec

from pipeline.audio.reader import AudioReader
from pipeline.audio.uri_policy import is_plain
from pipeline.config import RunConfig
from pipeline.errors import AudioError, ManifestError
from pipeline.records import Recording
from pipeline.source.formats import format_by_name
from pipeline.source.listing import list_audio
from pipeline.source.manifest import manifest_roots
from pipeline.source.opening import as_folder, folder_of, is_local, local_path
from pipeline.source.probing import probe_each

STDOUT = "-"
_BATCH = 1_000


@dataclass(frozen=True, slots=True)
class Written:
    """What a manifest that was written holds."""

    rows: int
    audio_s: float
    failed: dict[str, int]  # error code → rows that carry it
    unnameable: int  # files that no manifest can name: line breaks in the name, or not Unicode


def write_manifest(config: RunConfig, progress: Callable[[int], None] = lambda done: None) -> Written:
    """List and probe `config.manifest`, write to `config.output` (STDOUT: there). `progress` is told the rows so far.

    A file whose header cannot be read keeps its row, with the key `error` for `duration`. The target is there whole, or not.
    Raises ManifestError: nothing to list, a target that is no `.jsonl` or cannot be written.
    """
    folder, target = as_folder(config.manifest), config.output
    if target == STDOUT:
        return _write(config, folder, "", sys.stdout, progress)
    if format_by_name(target) != "jsonl" or target.endswith(".zst"):
        raise ManifestError(f"The manifest {target} would be JSON Lines; name it .jsonl or .jsonl.gz.")
    handle, part = tempfile.mkstemp(dir=folder_for_parts(target, "manifest"), prefix=".manifest-", suffix=".part")
    os.close(handle)
    try:
        with (
            gzip.open(part, "wt", encoding="utf-8")
            if target.endswith(".gz")
            else open(part, "w", encoding="utf-8") as out
        ):
            written = _write(config, folder, folder_of(target), out, progress)
        put_part(part, target, config, "manifest")
    finally:
        if os.path.exists(part):
            os.remove(part)
    return written


def folder_for_parts(target: str, what: str) -> str | None:
    """Beside a local target, so that it can be put in place at once; None: where temporary files go."""
    if not is_local(target):
        return None
    folder = folder_of(target)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise ManifestError(
            f"The {what} {target} cannot be written; check that its folder is there and may be written."
        )
    return folder


def put_part(part: str, target: str, config: RunConfig, what: str) -> None:
    """Put a file that is complete in its place. Raises ManifestError."""
    if is_local(target):
        os.chmod(part, 0o644)
        os.replace(part, local_path(target))
        return
    try:
        file_system, path = fsspec.core.url_to_fs(target, **config.store.storage_options)
        file_system.put_file(part, path)
    except Exception as error:  # every store client has its own tree of errors
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise ManifestError(
            f"The {what} {target} cannot be written ({reason}); check the bucket's name and store.storage_options."
        ) from error


def _write(config: RunConfig, folder: str, base: str, out: IO[str], progress: Callable[[int], None]) -> Written:
    source = config.source.model_copy(update={"format": "listing"})
    roots = manifest_roots(config.manifest, source)
    failed: Counter[str] = Counter()
    rows = unnameable = 0
    audio_s = 0.0
    named: list[list[str]] = []

    def batches() -> Iterator[list[Recording]]:
        nonlocal unnameable
        names = list_audio(folder, config.source)
        while batch := list(islice(names, _BATCH)):
            good = [name for name in batch if is_plain(name)]
            unnameable += len(batch) - len(good)
            named.append(good)
            yield [Recording(id=name, uri=f"{folder.rstrip('/')}/{name}") for name in good]

    for answers in probe_each(batches(), lambda: AudioReader(config.decode, source, roots), config.plan.probe_workers):
        for name, answer in zip(named.pop(0), answers, strict=True):
            row: dict[str, Any] = {"audio_filepath": _seen_from(base, folder, name)}
            if isinstance(answer, AudioError):
                failed[answer.code] += 1
                row["error"] = f"{answer.code}: {answer.message}"
            else:
                row["duration"] = answer.duration_s
                audio_s += answer.duration_s
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
        rows += len(answers)
        progress(rows)
    return Written(rows, audio_s, dict(failed), unnameable)


def _seen_from(base: str, folder: str, name: str) -> str:
    """The path as the manifest names it: relative to the manifest's folder where the audio lies below it."""
    uri = f"{folder.rstrip('/')}/{name}"
    below = f"{base.rstrip('/')}/"
    return uri.removeprefix(below) if base and uri.startswith(below) else uri
