"""Manifests: a uri in, checked rows out, in one Arrow schema whatever the format. docs/manifest.md is its reference.

Rows stream through in tables of bounded size; what is kept per row is 8 bytes, to find ids that come twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.uri_policy import resolve
from pipeline.config import SourceConfig
from pipeline.errors import AudioError, ManifestError
from pipeline.source.choosing import chosen
from pipeline.source.dialects import Manifest, folder_of_rows, open_manifest
from pipeline.source.formats import Complain, within
from pipeline.source.opening import is_local, local_path
from pipeline.source.rows import MANIFEST_SCHEMA, rows_table

__all__ = [
    "MANIFEST_SCHEMA",
    "Judge",
    "ManifestReport",
    "Problem",
    "RowGroup",
    "check_manifest",
    "manifest_digest",
    "manifest_roots",
    "read_manifest",
]

MAX_PROBLEMS = 20

# A row's language and whether it has keywords → what the engine could not do for it; None: nothing.
Judge = Callable[[str | None, bool], str | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one line (row, in Parquet) of a manifest."""

    line: int
    message: str


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of which the same is to be said."""

    first_line: int
    rows: int
    message: str


@dataclass(frozen=True, slots=True)
class ManifestReport:
    """What `quarry validate` says about a manifest."""

    uri: str
    rows: int
    audio_s: float  # of the rows that give their duration
    rows_without_duration: int
    rows_with_reference: int
    problems: tuple[Problem, ...]  # the first MAX_PROBLEMS of those that stop a run
    problem_count: int
    refused: tuple[Problem, ...]  # the first MAX_PROBLEMS rows that a run would fail with uri_refused
    refused_count: int
    unserved: tuple[RowGroup, ...]  # the first MAX_PROBLEMS things that the judge says of rows
    unserved_count: int  # rows of which it says anything


def read_manifest(uri: str, config: SourceConfig) -> Iterator[pa.Table]:
    """The manifest's rows as tables of MANIFEST_SCHEMA, at most 20,000 rows each, in the manifest's order.

    Raises ManifestError, one sentence with the line and the next step, for the first row that cannot be used;
    ids that come twice are known at the end, before the iterator ends.
    """
    manifest = open_manifest(uri, config)
    noun = manifest.noun

    def stop(line: int, message: str) -> None:
        raise ManifestError(
            f"The manifest {uri}, {noun} {line}: {message}; mend it (`quarry validate` lists every such {noun})."
        )

    hashes = [np.zeros(0, np.int64)]
    for _, _, table in _tables(manifest, config, stop):
        hashes.append(_hashes(table["id"]))
        yield table
    if not sum(map(len, hashes)):
        if config.only:
            raise ManifestError(f"No row of the manifest {uri} is chosen by source.only={config.only}; correct it.")
        raise ManifestError(f"The manifest {uri} has no rows; write one per recording (docs/manifest.md).")
    _find_duplicates(manifest, config, hashes, stop)


def check_manifest(uri: str, config: SourceConfig, judge: Judge = lambda language, keywords: None) -> ManifestReport:
    """Read the whole manifest and report counts and problems. Raises ManifestError only if it cannot be opened.

    `judge` says what the engine could not do for a row.
    """
    manifest = open_manifest(uri, config)
    problems = _Notes()
    refused = _Notes()
    unserved = _Groups()
    rows = without_duration = with_reference = 0
    audio_s = 0.0
    roots = manifest_roots(uri, config)
    hashes = [np.zeros(0, np.int64)]
    for place, numbers, table in _tables(manifest, config, problems.add):
        hashes.append(_hashes(table["id"]))
        rows += table.num_rows
        audio_s += pc.sum(table["duration_s"]).as_py() or 0.0
        without_duration += table["duration_s"].null_count
        with_reference += table.num_rows - table["reference_text"].null_count
        for number, objection in zip(numbers, _objections(table, judge), strict=True):
            if objection:
                unserved.add(number, objection)
        for number, recording_uri in zip(numbers, table["uri"].to_pylist(), strict=True):
            if recording_uri is not None and (reason := _refusal(recording_uri, config, roots)):
                within(place, refused.add)(number, reason)
    if not rows and not problems.count:
        problems.add(1, "there are no rows")
    _find_duplicates(manifest, config, hashes, problems.add)
    return ManifestReport(
        uri=uri,
        rows=rows,
        audio_s=audio_s,
        rows_without_duration=without_duration,
        rows_with_reference=with_reference,
        problems=tuple(problems.kept),
        problem_count=problems.count,
        refused=tuple(refused.kept),
        refused_count=refused.count,
        unserved=unserved.kept,
        unserved_count=unserved.rows,
    )


def manifest_digest(uri: str, config: SourceConfig) -> str:
    """sha256 of the manifest's bytes (of a listing: of its names), hex; other rows chosen are another. Raises ManifestError."""
    digest = open_manifest(uri, config).digest()
    if not config.only:
        return digest
    return hashlib.sha256(f"{digest} {json.dumps(config.only, sort_keys=True)}".encode()).hexdigest()


def manifest_roots(uri: str, config: SourceConfig) -> tuple[str, ...]:
    """Where rows may point: `source.roots`, else the manifest's own folder. Absolute paths or scheme://bucket/prefix."""
    return tuple(local_path(root) if is_local(root) else root for root in config.roots or [folder_of_rows(uri, config)])


class _Notes:
    """The first problems in full, all of them by number."""

    def __init__(self) -> None:
        self.kept: list[Problem] = []
        self.count = 0

    def add(self, line: int, message: str) -> None:
        self.count += 1
        if len(self.kept) < MAX_PROBLEMS:
            self.kept.append(Problem(line, message))


class _Groups:
    """Rows by what is said of them: the first MAX_PROBLEMS such groups, all rows by number."""

    def __init__(self) -> None:
        self._kept: dict[str, RowGroup] = {}
        self.rows = 0

    @property
    def kept(self) -> tuple[RowGroup, ...]:
        return tuple(self._kept.values())

    def add(self, line: int, message: str) -> None:
        self.rows += 1
        if message in self._kept or len(self._kept) < MAX_PROBLEMS:
            group = self._kept.setdefault(message, RowGroup(line, 0, message))
            self._kept[message] = replace(group, rows=group.rows + 1)


def _objections(table: pa.Table, judge: Judge) -> list[str | None]:
    """What the judge says of every row; it is asked once about rows that wish the same."""
    with_keywords = pc.fill_null(pc.greater(pc.list_value_length(table["keywords"]), 0), False)
    wishes = list(zip(table["language"].to_pylist(), with_keywords.to_pylist(), strict=True))
    said = {wish: judge(*wish) for wish in set(wishes)}
    return [said[wish] for wish in wishes]


def _tables(manifest: Manifest, config: SourceConfig, complain: Complain) -> Iterator[tuple[str, list[int], pa.Table]]:
    """File (of several), line numbers and rows, block by block; those alone that `source.only` chooses."""
    split = config.channels == "split"
    for block in manifest.read(complain):
        table = rows_table(block, manifest.folder, within(block.place, complain), manifest.keys, split)
        numbers = block.numbers
        if config.only:
            mask = chosen(table, config.only)
            table = table.filter(mask)
            numbers = [number for number, wanted in zip(numbers, mask.to_pylist(), strict=True) if wanted]
        yield block.place, numbers, table


def _hashes(ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    # Python's own hash is salted per process: nobody can prepare a manifest of collisions.
    return np.fromiter((hash(id_) for id_ in ids.drop_null().to_pylist()), np.int64)


def _find_duplicates(
    manifest: Manifest, config: SourceConfig, hashes: list[npt.NDArray[np.int64]], complain: Complain
) -> None:
    """Report every id that an earlier row has. Equal hashes are only a suspicion: the manifest is read again to see."""
    ordered = np.sort(np.concatenate(hashes))
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(suspects):
        return
    first: dict[str, str] = {}
    for place, numbers, table in _tables(manifest, config, lambda line, message: None):
        for number, id_ in zip(numbers, table["id"].to_pylist(), strict=True):
            if id_ is None or not _holds(suspects, hash(id_)):
                continue
            if id_ in first:
                within(place, complain)(number, f"the id {id_!r} is that of {first[id_]} too")
            else:
                first[id_] = f"{manifest.noun} {number}{f' in {place}' if place else ''}"


def _holds(ordered: npt.NDArray[np.int64], value: int) -> bool:
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and int(ordered[place]) == value


def _refusal(uri: str, config: SourceConfig, roots: tuple[str, ...]) -> str | None:
    """Why a run would not open this uri."""
    try:
        resolve(uri, roots, config.schemes)
    except AudioError as error:
        return error.message
    return None
