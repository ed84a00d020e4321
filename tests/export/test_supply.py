"""How many hours of pairs there are: the sums are those of the pairs that the export writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished_run import said, transcript, write_run

from pipeline.export.manifests import pairs
from pipeline.export.options import ExportOptions
from pipeline.export.supply import supply
from pipeline.reading import read_run
from pipeline.records import ErrorCounts, Failure


def scored(name: str, errors: int, seconds: float, **given: object) -> object:
    counts = ErrorCounts(errors, 0, 0, 20)
    found = [said("one", 0.0, seconds), said("two", seconds, 2 * seconds, 1, flags=("too_fast",))]
    return transcript(name, found, word_errors=counts, char_errors=counts, normalizer="english", **given)


ROWS = [
    scored("good", 0, 5.0),
    scored("fair", 3, 7.0),
    scored("long", 1, 40.0),
    transcript("unscored", [said("three", 0.0, 9.0)]),
    scored("part", 0, 3.0, status="partial", failure=Failure("decode", "truncated", "Cut off.")),
]


@pytest.mark.parametrize("options", [ExportOptions("pairs"), ExportOptions("pairs", flags=True, max_duration_s=60.0)])
def test_supply_is_what_the_export_writes(options: ExportOptions, tmp_path: Path) -> None:
    from dataclasses import replace

    write_run(str(tmp_path / "run"), [ROWS[:3], ROWS[3:]])
    limits = [None, 0.0, 0.1, 0.5]
    for limit, found in zip(limits, supply(read_run(tmp_path / "run"), options, limits), strict=True):
        written = [pairs(row, replace(options, max_wer=limit)).text or "" for row in ROWS]
        lines = [json.loads(line) for text in written for line in text.splitlines()]
        assert found.max_wer == limit
        assert found.pairs == len(lines) > 0
        assert found.hours * 3600 == pytest.approx(sum(line["duration"] for line in lines))
        everything_h = sum(segment.end_s - segment.start_s for row in ROWS for segment in row.segments) / 3600
        assert found.hours + sum(found.left_out_h.values()) == pytest.approx(everything_h)


def test_left_out_says_why(tmp_path: Path) -> None:
    write_run(str(tmp_path / "run"), [ROWS])
    (found,) = supply(read_run(tmp_path / "run"), ExportOptions("pairs"), [0.1])
    seconds = {reason: round(3600 * hours, 6) for reason, hours in found.left_out_h.items()}
    assert seconds == {"flagged": 45.0, "wer": 14.0, "too_long": 40.0, "not_scored": 9.0, "partial": 6.0}
