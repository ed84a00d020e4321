"""Transcript rows scored as the Open ASR leaderboard scores: its normaliser, its rows, its two ways to count words.

Pure but for the imports of jiwer and kaldialign. A row that failed has no words, so all of its reference counts as deleted: an
engine gains nothing by failing on what is hard.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.metrics.bootstrap import Bootstrap
from pipeline.metrics.shares import duration_buckets
from pipeline.metrics.summary import STATS, RunTotals
from pipeline.metrics.wer import count_char_errors, count_word_errors
from pipeline.records import ErrorCounts
from pipeline.schema import TRANSCRIPTS
from pipeline.text.normalize import normalize, normalizer_for

LENGTH = "length"  # the slice by duration bucket
NO_REFERENCE, EMPTY, IGNORED = "no_reference", "empty_reference", "ignore_time_segment_in_scoring"
_IGNORED_TEXT = "ignore time segment in scoring"  # as it is after normalisation; TED-LIUM marks such rows
_PARTS = ("substitutions", "deletions", "insertions", "reference_length")
_LEADERBOARD = ("leaderboard_wer", "leaderboard_wer_low", "leaderboard_wer_high")

SCORES = pa.schema(
    [
        ("dataset", pa.string()),
        *STATS,
        *((f"leaderboard_{part}", pa.int64()) for part in ("substitutions", "deletions", "insertions")),
        *((name, pa.float64()) for name in _LEADERBOARD),
    ]
)


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows that count: as TRANSCRIPTS with the counts of this protocol (the leaderboard's too), and why others do not."""

    rows: pa.Table
    joined: pa.Table  # the same rows, word counts with compounds joined
    left_out: Counter[str]
    normalizers: frozenset[str]


def count_joined_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between words where "white paper" and "whitepaper" are the same: what the leaderboard publishes (kaldialign)."""
    from kaldialign import edit_distance

    found = edit_distance(tuple(reference.split()), tuple(hypothesis.split()), merge_compounds=True)
    return ErrorCounts(found["sub"], found["del"], found["ins"], found["ref_len"])


def scorer_versions() -> dict[str, str]:
    """Of the packages that count. Raises ConfigError where the leaderboard's is not installed."""
    try:
        return {name: version(name) for name in ("jiwer", "kaldialign", "whisper-normalizer")}
    except PackageNotFoundError as error:
        raise ConfigError(
            f"The package {error.name} is not installed; an evaluation needs `pip install 'quarry-asr[evaluate]'`."
        ) from None


def score_rows(rows: pa.Table, language: str | None) -> Scored:
    """Score rows of TRANSCRIPTS. `language`: of rows that know none; it chooses the normaliser."""
    left_out: Counter[str] = Counter()
    kept: list[int] = []
    plain: list[tuple[ErrorCounts, ErrorCounts]] = []
    joined: list[ErrorCounts] = []
    used: list[str] = []
    texts = rows.select(["reference_text", "text", "language"]).to_pylist()
    for place, row in enumerate(texts):
        normalizer = normalizer_for("leaderboard", row["language"] or language)
        reference = normalize(row["reference_text"] or "", normalizer)
        if reason := _reason(row["reference_text"], reference):
            left_out[reason] += 1
            continue
        hypothesis = normalize(row["text"] or "", normalizer)
        kept.append(place)
        used.append(normalizer)
        plain.append((count_word_errors(reference, hypothesis), count_char_errors(reference, hypothesis)))
        joined.append(count_joined_word_errors(reference, hypothesis))
    whole = rows.select(TRANSCRIPTS.names).take(pa.array(kept, pa.int64()))
    whole = _with(whole, "normalizer", pa.array(used, pa.string()))
    whole = _with_counts(
        _with_counts(whole, "word", [words for words, _ in plain]), "char", [chars for _, chars in plain]
    )
    whole = whole.append_column(LENGTH, duration_buckets(whole["duration_s"]))
    return Scored(whole, _with_counts(whole, "word", joined), left_out, frozenset(used))


def check_columns(names: Sequence[str]) -> None:
    """Raises ConfigError for a column of the output that holds no single values; another name is a pass-through column."""
    for name in names:
        if name in TRANSCRIPTS.names and pa.types.is_nested(TRANSCRIPTS.field(name).type):
            raise ConfigError(
                f"evaluate.slices cannot have {name!r}, which holds lists; give columns of single values."
            )


class DatasetScore:
    """What one dataset comes to, slice by slice. `seed` of the bootstrap differs from dataset to dataset."""

    def __init__(self, columns: Sequence[str], seed: int) -> None:
        names = tuple(dict.fromkeys(["language", LENGTH, *columns]))
        self._plain, self._joined = RunTotals(names), RunTotals(names)
        self.plain_bootstrap, self.joined_bootstrap = Bootstrap(seed), Bootstrap(seed)
        self.left_out: Counter[str] = Counter()
        self.normalizers: set[str] = set()

    def add(self, scored: Scored) -> None:
        """Take scored rows; they may be dropped then."""
        self.left_out.update(scored.left_out)
        self.normalizers.update(scored.normalizers)
        for totals, bootstrap, rows in (
            (self._plain, self.plain_bootstrap, scored.rows),
            (self._joined, self.joined_bootstrap, scored.joined),
        ):
            totals.add(rows)
            edits = [rows[f"word_{part}"].to_numpy() for part in _PARTS]
            bootstrap.add(np.sum(edits[:3], axis=0, dtype=np.int64), edits[3].astype(np.int64))

    def table(self, dataset: str) -> pa.Table:
        """Rows of SCORES: the whole dataset first, then its slices."""
        plain, joined = self._plain.table(), self._joined.table()
        columns: dict[str, Any] = {"dataset": pa.repeat(dataset, plain.num_rows)}
        columns |= {name: plain[name] for name in STATS.names}
        for part in _PARTS[:3]:
            columns[f"leaderboard_{part}"] = joined[f"word_{part}"]
        for name in _LEADERBOARD:
            columns[name] = joined[name.removeprefix("leaderboard_")]
        return pa.table(columns, schema=SCORES)


def manifest_lines(rows: pa.Table) -> Iterator[str]:
    """Scored rows as lines of the leaderboard's own manifest, which its scripts score again; `id` is ours."""
    columns = ["id", "uri", "duration_s", "engine_s", "reference_text", "text"]
    for row in rows.select(columns).to_pylist():
        entry = {
            "audio_filepath": row["uri"],
            "duration": row["duration_s"],
            "time": row["engine_s"],
            "text": row["reference_text"],
            "pred_text": row["text"] or "",
            "id": row["id"],
        }
        yield json.dumps(entry, ensure_ascii=False) + "\n"


def _reason(given: str | None, normalised: str) -> str | None:
    if given is None:
        return NO_REFERENCE
    return {"": EMPTY, _IGNORED_TEXT: IGNORED}.get(normalised)


def _with_counts(rows: pa.Table, unit: str, counts: list[ErrorCounts]) -> pa.Table:
    for part in _PARTS:
        rows = _with(rows, f"{unit}_{part}", pa.array([getattr(each, part) for each in counts], pa.int64()))
    return rows


def _with(rows: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return rows.set_column(rows.schema.get_field_index(name), rows.schema.field(name), values)
