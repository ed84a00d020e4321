"""Conditions as users type them, against rows."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from finished_run import IDENTITY, transcript

from pipeline.errors import ConfigError
from pipeline.export.conditions import expression_of
from pipeline.records import ErrorCounts
from pipeline.schema import TRANSCRIPTS, transcripts_table

ROWS = transcripts_table(
    [
        transcript("a", language="en", duration_s=5.0, word_errors=ErrorCounts(1, 1, 0, 10), extra={"topic": "war"}),
        transcript("b,c", language="de", status="partial", duration_s=50.0, word_errors=ErrorCounts(0, 0, 1, 0)),
        transcript("d = e", duration_s=500.0, reference_text="so", word_errors=ErrorCounts(9, 0, 0, 10)),
    ],
    IDENTITY,
    "00000-0",
)


def chosen(*conditions: str) -> list[str]:
    return pa.table(ROWS).filter(expression_of(conditions, TRANSCRIPTS))["id"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("conditions", "ids"),
    [
        (["language=en"], ["a"]),
        (["language != en"], ["b,c"]),
        (["language is null"], ["d = e"]),
        (["language is not null"], ["a", "b,c"]),
        (["status in ok, failed"], ["a", "d = e"]),
        (["id=b,c"], ["b,c"]),
        (["id = d = e"], ["d = e"]),
        (["duration_s<50"], ["a"]),
        (["duration_s<=5e1"], ["a", "b,c"]),
        (["duration_s>5", "duration_s<500"], ["b,c"]),
        (["wer<=0.2"], ["a"]),
        (["wer>0.2"], ["d = e"]),
        (["extra.topic=war"], ["a"]),
        (["window_count in 1,2", "language=en"], ["a"]),
        (["reference_text="], []),
    ],
)
def test_rows_that_meet_the_conditions(conditions: list[str], ids: list[str]) -> None:
    assert chosen(*conditions) == ids


def test_conditions_of_the_page_are_conditions() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text("utf-8")
    found = [quoted or bare for quoted, bare in re.findall(r"--where (?:'([^']+)'|([^'\s`]+=\S+))", page)]
    assert len(found) > 5
    assert expression_of(found, TRANSCRIPTS) is not None


def test_no_condition_is_none() -> None:
    assert expression_of([], TRANSCRIPTS) is None


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("", "not of a known form"),
        ("language", "not of a known form"),
        ("__import__('os').system('x')", "not of a known form"),
        ("langage=en", "'langage'"),
        ("segments=1", "'segments'"),
        ("duration_s<ten", "'ten'"),
        ("window_count=1.5", "'1.5'"),
    ],
)
def test_what_is_no_condition_is_said_in_a_sentence(condition: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        chosen(condition)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
