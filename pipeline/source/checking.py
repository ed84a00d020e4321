"""The whole of a manifest looked through before any engine starts: every row that cannot be used, and why.

Nothing is opened but the manifest. Problems are told as they are found and counted; the first ones of each kind are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.uri_policy import resolve
from pipeline.config import SourceConfig
from pipeline.errors import AudioError
from pipeline.source.dialects import open_manifest
from pipeline.source.formats import format_by_name
from pipeline.source.manifest import ignore, manifest_roots, tables_of
from pipeline.source.repeats import Repeat, Repeats

MAX_PROBLEMS = 20
_NOUNS = {"parquet": "row", "webdataset": "sample", "jsonl": "line", "csv": "line", "tsv": "line"}
# Rows alike in all of these have the same heard twice.
_SAME_AUDIO = ("uri", "offset_s", "duration_s", "channel", "language", "task", "target_language")

Kind = Literal[
    "bad_row",  # stops a run
    "repeated_id",  # stops a run
    "unserved",  # the engine cannot do for the row what it asks
    "refused_uri",  # the row would fail
    "repeated_audio",  # the row says of the same audio what another says
]


class Asked(NamedTuple):
    """What a row asks of the engine; None: nothing in particular."""

    language: str | None
    task: str | None
    target_language: str | None
    keywords: bool


# What the engine could not do for such a row; None: nothing.
Judge = Callable[[Asked], str | None]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one row of a manifest."""

    line: int  # what `noun` counts, from 1
    message: str  # begins with the file, where the manifest has several
    kind: Kind = "bad_row"
    place: str = ""  # that file
    noun: str = "line"  # line | row | sample | file

    @property
    def told(self) -> str:
        """The problem with its place, as people are told it."""
        return f"{self.noun} {self.line}: {self.message}"

    def as_json(self, manifest: str) -> dict[str, str | int]:
        """The problem for machines. `manifest`: the file where there is one."""
        message = self.message.removeprefix(f"in {self.place}: ")
        return {"problem": self.kind, "file": self.place or manifest, self.noun: self.line, "message": message}


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Rows of which the same is to be said."""

    first: str  # where the first one is, in words
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
    problems: tuple[Problem, ...]  # the first of those that stop a run
    problem_count: int
    refused: tuple[Problem, ...]  # the first rows that a run would fail with uri_refused
    refused_count: int
    unserved: tuple[RowGroup, ...]  # the first things that the judge says of rows
    unserved_count: int  # rows of which it says anything
    repeated: tuple[Problem, ...]  # the first rows of which an earlier one says the same
    repeated_count: int


def check_manifest(
    uri: str,
    config: SourceConfig,
    judge: Judge = lambda asked: None,
    tell: Callable[[Problem], None] = lambda problem: None,
) -> ManifestReport:
    """Read the whole manifest and report counts and problems. Raises ManifestError only if it cannot be opened.

    `judge` says what the engine could not do for a row; `tell` is told of every problem.
    """
    manifest = open_manifest(uri, config)
    notes = _Notes(manifest.noun, tell)
    unserved = _Groups()
    rows = without_duration = with_reference = 0
    audio_s = 0.0
    roots = manifest_roots(uri, config)
    ids, audio = Repeats(("id",)), Repeats(_SAME_AUDIO)
    bad_row = partial(notes.add, "bad_row")
    for place, numbers, table in tables_of(manifest, config, bad_row):
        ids.add(table)
        audio.add(table)
        rows += table.num_rows
        audio_s += pc.sum(table["duration_s"]).as_py() or 0.0
        without_duration += table["duration_s"].null_count
        with_reference += table.num_rows - table["reference_text"].null_count
        for number, objection in zip(numbers, _objections(table, judge), strict=True):
            if objection:
                unserved.add(notes.of("unserved", number, objection, place), objection)
        for number, recording_uri in zip(numbers, table["uri"].to_pylist(), strict=True):
            if recording_uri is not None and (reason := _refusal(recording_uri, config, roots)):
                notes.add("refused_uri", number, reason, place)
    if not rows and not notes.count["bad_row"]:
        notes.add("bad_row", 1, "there are no rows")
    for found in ids.find(tables_of(manifest, config, ignore)):
        notes.add(
            "repeated_id", found.number, f"the id {found.values[0]!r} is that of {notes.first(found)} too", found.place
        )
    for found in audio.find(tables_of(manifest, config, ignore)):
        message = f"the same stretch and channel of the same audio as in {notes.first(found)}, asked for the same"
        notes.add("repeated_audio", found.number, message, found.place)
    return ManifestReport(
        uri=uri,
        rows=rows,
        audio_s=audio_s,
        rows_without_duration=without_duration,
        rows_with_reference=with_reference,
        problems=tuple((notes.kept["bad_row"] + notes.kept["repeated_id"])[:MAX_PROBLEMS]),
        problem_count=notes.count["bad_row"] + notes.count["repeated_id"],
        refused=tuple(notes.kept["refused_uri"]),
        refused_count=notes.count["refused_uri"],
        unserved=unserved.kept,
        unserved_count=unserved.rows,
        repeated=tuple(notes.kept["repeated_audio"]),
        repeated_count=notes.count["repeated_audio"],
    )


class _Notes:
    """The first problems of each kind in full, all of them by number."""

    def __init__(self, noun: str, tell: Callable[[Problem], None]) -> None:
        self._noun, self._tell = noun, tell
        kinds: tuple[Kind, ...] = ("bad_row", "repeated_id", "refused_uri", "repeated_audio")
        self.kept: dict[Kind, list[Problem]] = {kind: [] for kind in kinds}
        self.count: dict[Kind, int] = dict.fromkeys(kinds, 0)

    def add(self, kind: Kind, number: int, message: str, place: str = "") -> None:
        self.count[kind] += 1
        problem = self.of(kind, number, message, place)
        if len(self.kept[kind]) < MAX_PROBLEMS:
            self.kept[kind].append(problem)

    def of(self, kind: Kind, number: int, message: str, place: str) -> Problem:
        """The problem, told."""
        problem = Problem(number, f"in {place}: {message}" if place else message, kind, place, self._noun_in(place))
        self._tell(problem)
        return problem

    def first(self, found: Repeat) -> str:
        """Where the first of two rows is."""
        where = f"{self._noun_in(found.first_place)} {found.first_number}"
        return f"{where} in {found.first_place}" if found.first_place else where

    def _noun_in(self, place: str) -> str:
        """A manifest of several files may have them in several formats."""
        return _NOUNS.get(format_by_name(place) or "", self._noun) if place else self._noun


class _Groups:
    """Rows by what is said of them: the first MAX_PROBLEMS such groups, all rows by number."""

    def __init__(self) -> None:
        self._kept: dict[str, RowGroup] = {}
        self.rows = 0

    @property
    def kept(self) -> tuple[RowGroup, ...]:
        return tuple(self._kept.values())

    def add(self, problem: Problem, message: str) -> None:
        self.rows += 1
        if message in self._kept or len(self._kept) < MAX_PROBLEMS:
            where = f"{problem.noun} {problem.line}{f' of {problem.place}' if problem.place else ''}"
            group = self._kept.setdefault(message, RowGroup(where, 0, message))
            self._kept[message] = replace(group, rows=group.rows + 1)


def _objections(table: pa.Table, judge: Judge) -> Iterator[str | None]:
    """What the judge says of every row; it is asked once about rows that ask the same."""
    with_keywords = pc.fill_null(pc.greater(pc.list_value_length(table["keywords"]), 0), False)
    columns = [table["language"], table["task"], table["target_language"], with_keywords]
    asked = [Asked(*row) for row in zip(*(column.to_pylist() for column in columns), strict=True)]
    said = {one: judge(one) for one in set(asked)}
    return (said[one] for one in asked)


def _refusal(uri: str, config: SourceConfig, roots: tuple[str, ...]) -> str | None:
    """Why a run would not open this uri."""
    try:
        resolve(uri, roots, config.schemes)
    except AudioError as error:
        return error.message
    return None
