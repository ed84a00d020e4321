"""Totals over real rows of the output's schema: any slice, any cut into tables, equals jiwer on the rows themselves."""

from __future__ import annotations

import json
from dataclasses import replace

import jiwer
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.metrics import summary
from pipeline.metrics.bootstrap import bootstrap_interval
from pipeline.metrics.summary import STATS, RunTotals, Totals, add
from pipeline.metrics.wer import count_char_errors, count_word_errors, error_rate
from pipeline.records import EngineStats, Failure, RunIdentity, Segment, Span, Transcript
from pipeline.schema import TRANSCRIPTS, transcripts_table

IDENTITY = RunIdentity("run", "f" * 12, "fake", "m", "r")
EMPTY = TRANSCRIPTS.empty_table()


def transcript(
    number: int,
    reference: str | None = None,
    text: str = "",
    language: str | None = "en",
    status: str = "ok",
    failure: Failure | None = None,
    extra: dict[str, str] | None = None,
) -> Transcript:
    return Transcript(
        id=f"r{number}",
        uri=f"{number}.wav",
        status=status,  # type: ignore[arg-type]
        offset_s=0.0,
        duration_s=2.0 + number,
        text=text,
        segments=(),
        spans=(),
        failure=failure,
        language=language,
        reference_text=reference,
        warnings=(),
        flags=(),
        word_errors=None if reference is None else count_word_errors(reference, text),
        char_errors=None if reference is None else count_char_errors(reference, text),
        normalizer=None if reference is None else "none",
        decode_s=0.25,
        engine_s=0.5,
        window_index=0,
        window_count=1,
        window_start_s=0.0,
        extra=extra or {},
    )


def table(rows: list[Transcript]) -> pa.Table:
    return transcripts_table(rows, IDENTITY, "00000-00000000")


words = st.lists(st.sampled_from(["a", "b", "cat", "ça"]), max_size=6).map(" ".join)
rows_strategy = st.lists(
    st.builds(
        transcript,
        number=st.integers(0, 50),
        reference=st.none() | words,
        text=words,
        language=st.sampled_from(["en", "de", None]),
        status=st.sampled_from(["ok", "partial", "failed", "skipped"]),
        extra=st.sampled_from([{}, {"show": "news"}, {"show": "talk", "host": "x"}]),
    ),
    max_size=12,
)


def expected(rows: list[Transcript]) -> Totals:
    """The same sums, by hand and by jiwer over all texts at once."""
    scored = [row for row in rows if row.reference_text is not None]
    totals = {status: sum(row.status == status for row in rows) for status in ("ok", "partial", "failed", "skipped")}
    audio_s = sum(row.duration_s for row in rows)
    sums = {"audio_s": audio_s, "channels_s": audio_s, "decode_s": 0.25 * len(rows), "engine_s": 0.5 * len(rows)}
    counts = {}
    for name, process in (("words", jiwer.process_words), ("chars", jiwer.process_characters)):
        output = process([row.reference_text for row in scored], [row.text for row in scored]) if scored else None
        edits = [getattr(output, edit, 0) for edit in ("substitutions", "deletions", "insertions")]
        counts[name] = type(summary.NO_ERRORS)(*edits, edits[0] + edits[1] + getattr(output, "hits", 0))
    return Totals(len(rows), **totals, **sums, scored=len(scored), **counts)


@given(rows_strategy, st.integers(0, 12))
def test_totals_equal_jiwer_in_any_cut(rows: list[Transcript], cut: int) -> None:
    assert add(add(Totals(), table(rows[:cut])), table(rows[cut:])) == expected(rows)


def test_speed_counts_every_channel_that_was_kept_apart_and_audio_counts_once() -> None:
    def heard(number: int, channels: tuple[int, ...], spans: tuple[Span, ...] = ()) -> Transcript:
        segments = tuple(Segment(place, 0.0, 1.0, "a", channel=channel) for place, channel in enumerate(channels))
        return replace(transcript(number), segments=segments, spans=spans)

    rows = [
        heard(8, (0, 1, 1)),  # 10 s
        heard(18, (1,)),  # one channel was asked for: 20 s
        heard(
            28, (0,), (Span(0.0, 30.0, "non_speech", 1), Span(30.0, 31.0, "failed"))
        ),  # the other one is silent: 30 s
        replace(heard(38, (), (Span(0.0, 40.0, "non_speech", 0),)), engine_s=0.0),  # nothing for the engine: 40 s
    ]
    found = add(Totals(), table(rows))
    assert (found.audio_s, found.channels_s) == (100.0, 2 * 10.0 + 20.0 + 2 * 30.0 + 40.0)
    run = RunTotals()
    run.add(table(rows))
    assert run.as_dict()["rtfx"] == 140.0 / 1.5


@given(rows_strategy, st.integers(0, 12), st.sampled_from(["language", "status", "show"]))
def test_every_slice_equals_jiwer_on_the_slice(rows: list[Transcript], cut: int, column: str) -> None:
    def value(row: Transcript) -> str:
        return (row.extra.get("show") if column == "show" else getattr(row, column)) or "unknown"

    run = RunTotals((column,))
    run.add(table(rows[:cut]))
    run.add(table(rows[cut:]))
    groups = {name: each.totals for name, each in run._by[column].items()}
    assert groups == {name: expected([row for row in rows if value(row) == name]) for name in set(map(value, rows))}


@settings(max_examples=20)
@given(rows_strategy)
def test_a_run_says_the_same_in_both_its_forms(rows: list[Transcript]) -> None:
    run = RunTotals(("language", "show"))
    for row in rows:
        run.add(table([row]))
    stats = run.table()
    assert stats.schema == STATS
    overall, *groups = stats.to_pylist()
    as_dict = run.as_dict()
    assert {key: overall[key] for key in overall.keys() - {"column", "value"}} == {
        key: as_dict[key] for key in overall.keys() - {"column", "value"}
    }
    assert {(row["column"], row["value"]): row["recordings"] for row in groups} == {
        (column, value): each["recordings"]
        for column in ("language", "show")
        for value, each in as_dict[f"by_{column}"].items()
    }
    assert json.loads(json.dumps(as_dict)) == as_dict
    whole = expected(rows)
    assert (overall["recordings"], overall["scored"], overall["words"]) == (
        len(rows),
        whole.scored,
        whole.words.reference_length,
    )
    assert (overall["wer"], overall["cer"]) == (error_rate(whole.words), error_rate(whole.chars))


def test_the_interval_is_that_of_the_scored_rows() -> None:
    import numpy as np

    rows = [transcript(n, "a b cat" if n % 3 else None, "a cat" if n % 2 else "a b cat") for n in range(40)]
    counts = [row.word_errors for row in rows if row.word_errors]
    errors = np.array([c.substitutions + c.deletions + c.insertions for c in counts])
    run = RunTotals()
    run.add(table(rows[:7]))
    run.add(table(rows[7:]))
    found = run.as_dict()
    assert (found["wer_low"], found["wer_high"]) == bootstrap_interval(
        errors, np.array([c.reference_length for c in counts])
    )
    assert found["wer_low"] < found["wer"] < found["wer_high"]
    assert found["by_language"]["en"]["wer_low"] == found["wer_low"]


def test_an_unscored_run_has_no_rates() -> None:
    run = RunTotals()
    run.add(EMPTY)
    run.add(table([transcript(1), transcript(2, language=None)]))
    found = run.as_dict()
    assert (found["scored"], found["words"], found["wer"], found["wer_low"], found["cer"]) == (0, 0, None, None, None)
    assert set(found["by_language"]) == {"en", "unknown"}
    assert found["rtfx"] == pytest.approx(7 / 1.0)


def test_the_engines_seconds_are_summed() -> None:
    run = RunTotals()
    run.add_engine(EngineStats(engine_s=1, wait_s=2, audio_s=30, padded_s=40, batches=3, draft_s=6, drafted_tokens=9))
    run.add_engine(EngineStats(queued_s=2, done_at_s=1e9))
    run.add_engine(EngineStats(queued_s=3, done_at_s=1e9))
    run.add_engine(EngineStats(engine_s=1, wait_s=3, audio_s=30, padded_s=20, batches=1, foretold_tokens=5))
    found = run.as_dict()
    assert [found[key] for key in ("wait_s", "engine_audio_s", "padded_s", "batches", "draft_s")] == [5, 60, 60, 4, 6]
    assert (found["drafted_tokens"], found["foretold_tokens"], found["queued_s"]) == (9, 5, 5)


def test_failures_are_counted_by_code_with_a_few_examples() -> None:
    failed = [
        transcript(n, status="failed", failure=Failure("decode", "not_audio" if n % 3 else "empty_file", f"no. {n}"))
        for n in range(30)
    ]
    run = RunTotals()
    run.add(table([*failed[:4], transcript(99)]))
    run.add(table(failed[4:]))
    found = run.as_dict()
    assert list(found["failure_codes"].items()) == [("not_audio", 20), ("empty_file", 10)]
    assert [example["id"] for example in found["failure_examples"]] == [f"r{n}" for n in range(10)]
    assert found["failure_examples"][0] == {"id": "r0", "code": "empty_file", "message": "no. 0"}
    assert found["failed"] == 30


def test_a_column_of_endless_values_takes_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(summary, "MOST_SLICES", 5)
    rows = [transcript(n, language=f"x{n % 20:02d}") for n in range(40)]
    run = RunTotals()
    for row in rows:
        run.add(table([row]))
    counted = {name: each["recordings"] for name, each in run.as_dict()["by_language"].items()}
    assert counted == {"x00": 2, "x01": 2, "x02": 2, "x03": 2, "x04": 2, "other": 30}
