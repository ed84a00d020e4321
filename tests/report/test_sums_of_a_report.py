"""What a page is made of: histograms, slices, waiting, failures. Sums must be those of all rows, however they come."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from made_pages import BEGAN, SESSIONS, facts_of, failed_row, scored_row, shard_rows, usual_rows, write_whole_run

from pipeline.errors import AudioCode, EngineCode
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.report.advice import NEXT_STEPS, UNKNOWN, next_step
from pipeline.report.histogram import CONFIDENCE_EDGES, DURATION_EDGES_S, Histogram
from pipeline.report.slices import COLUMNS, DURATION, MOST_VALUES, Slices
from pipeline.report.waiting import COLUMNS as WAITING_COLUMNS
from pipeline.report.waiting import Waiting


def slice_rows(count: int, **columns: list[str | None]) -> pa.RecordBatch:
    random = np.random.default_rng(5)
    data: dict[str, Any] = {name: random.integers(0, 5, count) for name in COLUMNS[1:4]}
    data["duration_s"] = np.full(count, 20.0)
    data["word_reference_length"] = random.integers(5, 40, count)
    pairs = [[(key, values[at]) for key, values in columns.items() if values[at] is not None] for at in range(count)]
    data["extra"] = pa.array(pairs, pa.map_(pa.string(), pa.string()))
    return pa.record_batch(data).select(COLUMNS)


def test_a_histogram_is_that_of_all_batches() -> None:
    values = np.random.default_rng(1).lognormal(2.0, 2.0, 5000)
    histogram = Histogram(DURATION_EDGES_S)
    for part in np.array_split(values, 7):
        histogram.add(pa.array([*part.tolist(), None]))
    counts, _ = np.histogram(np.clip(values, 0.1, 360_000), DURATION_EDGES_S)
    assert [bar.count for bar in histogram.bars(trimmed=False)] == counts.tolist()
    assert (histogram.total, histogram.missing) == (5000, 7)
    assert histogram.quantile(0.5) == pytest.approx(np.median(values), rel=0.1)
    assert histogram.bars()[0].count > 0 < histogram.bars()[-1].count


def test_a_histogram_of_nothing() -> None:
    histogram = Histogram(CONFIDENCE_EDGES)
    histogram.add(pa.array([None, None], pa.float32()))
    assert (histogram.bars(), histogram.quantile(0.5), histogram.missing) == ([], None, 2)


def test_the_interval_of_a_slice_is_the_bootstraps() -> None:
    rows = slice_rows(300)
    slices = Slices()
    slices.add(rows)
    (found,) = slices.tables()[DURATION]
    errors = np.sum([rows[name].to_numpy() for name in COLUMNS[1:4]], axis=0)
    words = rows["word_reference_length"].to_numpy()
    assert (found.value, found.scored, found.words) == ("10 to 30 s", 300, int(words.sum()))
    assert found.wer == pytest.approx(errors.sum() / words.sum())
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(errors, words))


def test_slices_add_up_and_columns_of_many_values_are_left_out() -> None:
    count = 400
    site = [f"s{at % 3}" if at % 5 else None for at in range(count)]
    rows = slice_rows(count, site=site, name=[f"n{at}" for at in range(count)], same=["x"] * count)
    slices = Slices()
    for start in range(0, count, 90):
        slices.add(rows.slice(start, 90))
    tables = slices.tables()
    assert set(tables) == {DURATION, "site"}
    assert {one.value for one in tables["site"]} == {"s0", "s1", "s2", "(none)"}
    assert sum(one.recordings for one in tables["site"]) == count
    assert sum(one.words for one in tables["site"]) == tables[DURATION][0].words
    assert slices.left_out == {"name"}
    assert count > MOST_VALUES


def test_columns_named_like_ours_harm_nothing() -> None:
    slices = Slices()
    slices.add(slice_rows(10, duration=[str(at % 2) for at in range(10)], id=[str(at % 2) for at in range(10)]))
    assert set(slices.tables()) == {DURATION, "id"}
    assert [one.value for one in slices.tables()[DURATION]] == ["10 to 30 s"]


def test_waiting_conserves_seconds_and_keeps_sessions_apart() -> None:
    waiting = Waiting(SESSIONS, bins=40)
    for batch in shard_rows(12).select(WAITING_COLUMNS).to_batches(max_chunksize=5):
        waiting.add(batch)
    bins = waiting.intervals()
    width_s = bins[0].end_s - bins[0].start_s
    assert (bins[-1].end_s, waiting.borders_s, waiting.placed, waiting.unplaced) == (200.0, [100.0], 12, 0)
    assert sum(one.busy for one in bins) * width_s == pytest.approx(12 * 8.0)
    assert sum(one.waiting for one in bins) * width_s == pytest.approx(12 * 2.0)
    assert sum(one.in_line for one in bins) * width_s == pytest.approx(12 * 4.0)
    assert max(one.busy for one in bins) == pytest.approx(0.8)  # calls of 10 s with 8 s of the engine
    assert [one.busy for one in bins[:20]] == pytest.approx([one.busy for one in bins[20:]])


def test_shards_outside_of_every_session_are_counted_and_not_drawn() -> None:
    early = {"done_at": BEGAN - timedelta(hours=1), "engine_s": 1.0}
    between = {"done_at": datetime.fromisoformat(SESSIONS[0]["started_at"]) + timedelta(hours=2), "engine_s": 1.0}
    never = {"done_at": None, "engine_s": 1.0}
    schema = shard_rows(1).select(WAITING_COLUMNS).schema
    waiting = Waiting(SESSIONS)
    waiting.add(pa.RecordBatch.from_pylist([early, between, never], schema=schema))
    assert (waiting.placed, waiting.unplaced, waiting.intervals()) == (0, 3, [])
    nobody = Waiting([])
    nobody.add(pa.RecordBatch.from_pylist([{"done_at": datetime.now(UTC)}], schema=schema))
    assert (nobody.unplaced, nobody.intervals()) == (1, [])


def test_every_code_has_a_next_step() -> None:
    codes = {*get_args(AudioCode), *get_args(EngineCode)}
    assert set(NEXT_STEPS) == codes
    assert all(step.endswith(".") and step.count("`") % 2 == 0 for step in NEXT_STEPS.values())
    assert next_step("of_a_later_version") == UNKNOWN


def test_failures_are_grouped_by_code(tmp_path: Path) -> None:
    facts = facts_of(write_whole_run(tmp_path, usual_rows()))
    assert {code: (one.failed, one.partial) for code, one in facts.failures.items()} == {
        "not_found": (5, 0),
        "bad_header": (1, 0),
        "truncated": (0, 1),
    }
    assert [one["recording_id"] for one in facts.failures["not_found"].examples] == ["gone-0", "gone-1", "gone-2"]


def test_recordings_that_failed_have_no_length(tmp_path: Path) -> None:
    facts = facts_of(write_whole_run(tmp_path, [scored_row(1), failed_row("gone")]))
    assert (facts.durations.total, facts.durations.missing) == (1, 1)
