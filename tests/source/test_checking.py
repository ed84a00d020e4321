"""What a manifest's rows may ask, and what is told of those that cannot be used or served: by kind, file and number."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_manifest import CONFIG, rows_of, write_jsonl

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.records import SPLIT
from pipeline.source.checking import Asked, Problem, RowGroup, check_manifest
from pipeline.source.manifest import read_manifest


def test_rows_that_the_engine_cannot_serve_are_grouped_by_what_is_said_of_them(tmp_path: Path) -> None:
    def judge(asked: Asked) -> str | None:
        return f"no {asked.language}" if asked.language in ("ja", "fr") else "no keywords" if asked.keywords else None

    rows = [
        {"uri": "0.wav", "lang": "fr"},
        {"uri": "1.wav", "keywords": ["a"]},
        {"uri": "2.wav", "lang": "en", "keywords": []},
        {"uri": "3.wav", "lang": "fr", "keywords": "a; b"},
        {"uri": "4.wav", "lang": "en", "keywords": ";"},
        {"uri": "5.wav", "lang": "en", "keywords": "a"},
        {"uri": "6.wav", "lang": "ja", "duration": "wrong"},
    ]
    report = check_manifest(str(write_jsonl(tmp_path / "m.jsonl", rows)), CONFIG, judge)
    assert report.unserved == (
        RowGroup("line 1", 2, "no fr"),
        RowGroup("line 2", 2, "no keywords"),
        RowGroup("line 7", 1, "no ja"),
    )
    assert (report.unserved_count, report.problem_count) == (5, 1)


def test_what_is_said_of_rows_is_kept_for_the_first_groups_and_asked_once_a_block(tmp_path: Path) -> None:
    asked: list[str | None] = []

    def judge(one: Asked) -> str | None:
        asked.append(one.language)
        return f"no {one.language}"

    rows = [{"uri": f"{number}.wav", "lang": f"x{number % 100}"} for number in range(1_000)]
    report = check_manifest(str(write_jsonl(tmp_path / "m.jsonl", rows)), CONFIG, judge)
    assert report.unserved_count == 1_000
    assert report.unserved == tuple(RowGroup(f"line {number + 1}", 10, f"no x{number}") for number in range(20))
    assert len(asked) == 100


def test_every_problem_is_told_with_its_file_and_number(tmp_path: Path) -> None:
    """Of a manifest in several files, each problem by its kind; audio that comes twice is a warning."""
    rows = [{"uri": "a.wav"}, {"uri": "b.wav", "duration": "long"}, {"uri": "a.wav", "id": "again"}]
    write_jsonl(tmp_path / "m_0.jsonl", rows)
    other = [{"uri": "a.wav", "id": "translated", "task": "translate"}, {"uri": "/elsewhere/x.wav", "id": "again"}]
    write_jsonl(tmp_path / "m_1.jsonl", other)
    found: list[Problem] = []
    report = check_manifest(str(tmp_path / "m_{0..1}.jsonl"), CONFIG, lambda asked: asked.task, found.append)
    told = [(one.kind, one.place, one.noun, one.line) for one in found]
    assert told == [
        ("bad_row", "m_0.jsonl", "line", 2),
        ("unserved", "m_1.jsonl", "line", 1),
        ("refused_uri", "m_1.jsonl", "line", 2),
        ("repeated_id", "m_1.jsonl", "line", 2),
        ("repeated_audio", "m_0.jsonl", "line", 3),
    ]
    assert found[3].told == "line 2: in m_1.jsonl: the id 'again' is that of line 3 in m_0.jsonl too"
    assert found[0].as_json("m")["message"].startswith("duration is 'long'")
    counts = (report.problem_count, report.refused_count, report.unserved_count, report.repeated_count)
    assert counts == (2, 1, 1, 1)


def test_parquet_has_rows_and_keeps_columns_of_every_simple_type(tmp_path: Path) -> None:
    day = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
    columns = {
        "uri": ["a.wav", "b.wav"],
        "duration": [1.0, -1.0],
        "agent": [7, 7],
        "score": [0.25, 0.25],
        "vip": [True, True],
        "day": [day.date(), day.date()],
        "at": [day, day],
        "price": [Decimal("1.50"), Decimal("1.50")],
        "tags": [["x", "ü"], []],
        "ref": [{"a": 1}, None],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    found: list[Problem] = []
    check_manifest(str(tmp_path / "m.parquet"), CONFIG, tell=found.append)
    assert [(one.noun, one.line) for one in found] == [("row", 2)]
    columns["duration"] = [1.0, 1.0]
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    assert dict(rows_of(tmp_path / "m.parquet")[0]["extra"]) == {
        "agent": "7",
        "score": "0.25",
        "vip": "true",
        "day": "2026-03-01",
        "at": "2026-03-01T12:30:00+00:00",
        "price": "1.50",
        "tags": '["x", "ü"]',
        "ref": '{"a": 1}',
    }


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"source_lang": "de", "target_lang": "en", "taskname": "s2t_translation"}, ("de", "translate", "en")),
        ({"source_lang": "de", "target_lang": "en"}, ("de", "translate", "en")),
        ({"source_lang": "de", "target_lang": "de", "taskname": "asr"}, ("de", "transcribe", None)),
        ({"source_lang": "de", "lang": "de", "target_lang": "de-AT"}, ("de", "transcribe", None)),
        ({"lang": "ja", "task": "translate"}, ("ja", "translate", None)),
        ({"task": "Transcribe"}, (None, "transcribe", None)),
        ({"target_language": "fr-CA"}, (None, "translate", "fr")),
    ],
)
def test_the_task_is_taken_from_the_keys_of_nemo_and_ours(
    tmp_path: Path, row: dict[str, str], expected: object
) -> None:
    (found,) = rows_of(write_jsonl(tmp_path / "m.jsonl", [{"uri": "a.wav", **row}]))
    assert (found["language"], found["task"], found["target_language"]) == expected
    assert found["extra"] == []


@pytest.mark.parametrize(
    "row",
    [
        {"task": "sing"},
        {"lang": "de", "task": "transcribe", "target_lang": "en"},
        {"lang": "en", "task": "translate", "target_lang": "en-GB"},
        {"lang": "en", "source_lang": "de"},
        {"channel": "left"},
    ],
)
def test_contradictions_about_the_task_and_channel_are_refused(tmp_path: Path, row: dict[str, str]) -> None:
    with pytest.raises(ManifestError, match="line 1: "):
        rows_of(write_jsonl(tmp_path / "m.jsonl", [{"uri": "a.wav", **row}]))


def test_channels_are_split_by_the_row_or_by_default(tmp_path: Path) -> None:
    rows = [{"uri": "a.wav", "channel": channel} for channel in ("split", "mix", 1, None)]
    path = write_jsonl(tmp_path / "m.jsonl", [{**row, "id": number} for number, row in enumerate(rows)])
    assert [row["channel"] for row in rows_of(path)] == [SPLIT, None, 1, None]
    tables = read_manifest(str(path), SourceConfig(channels="split"))
    assert [channel for table in tables for channel in table["channel"].to_pylist()] == [SPLIT, None, 1, SPLIT]
