"""NeMo lines and pairs to train on: what is in, what is left out, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from finished_run import said, transcript

from pipeline.config import SourceConfig
from pipeline.export.manifests import nemo, pairs
from pipeline.export.options import ExportOptions
from pipeline.records import SPLIT, ErrorCounts, Span, Transcript
from pipeline.source.manifest import read_manifest

SPOKEN = (
    said("short one", 1.0, 1.5),
    said("a good sentence", 2.0, 8.0, 1, language="en", confidence=0.75),
    said("loop loop loop", 10.0, 14.0, 2, flags=("repeated_ngrams",)),
    said(" ", 15.0, 16.0, 3),
    said("long", 20.0, 60.0, 4),
)
TWO_WRONG = ErrorCounts(1, 1, 0, 10)


def lines(text: str | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (text or "").splitlines()]


def pairs_of(found: Transcript, **options: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    made = pairs(found, ExportOptions("pairs", **options))
    return lines(made.text), dict(made.left_out)


def test_nemo_keeps_reference_and_hypothesis_and_the_rows_own_columns() -> None:
    found = transcript(
        "a",
        [said("so it goes")],
        offset_s=3.5,
        reference_text="so",
        language="en",
        extra={"topic": "war", "id": "other"},
    )
    (line,) = lines(nemo(found, ExportOptions("nemo")).text)
    assert line == {
        "audio_filepath": "/archive/a.wav",
        "offset": 3.5,
        "duration": 10.0,
        "text": "so",
        "pred_text": "so it goes",
        "lang": "en",
        "topic": "war",
        "id": "a",
        "status": "ok",
    }
    (bare,) = lines(nemo(transcript("a"), ExportOptions("nemo")).text)
    assert {"text", "lang"}.isdisjoint(bare)
    assert bare["pred_text"] == ""


def test_the_channel_comes_back_as_a_manifest_says_it(tmp_path: Path) -> None:
    silent = Span(0.0, 10.0, "non_speech", 1)
    heard = {
        "mixed": transcript("mixed", [said("so")]),
        "right": transcript("right", [said("so", channel=1)]),
        "both": transcript("both", [said("so", channel=0), said("it", channel=1)]),
        "one-sided": transcript("one-sided", [said("so", channel=0)], spans=(silent,)),
    }
    manifest = tmp_path / "again.jsonl"
    manifest.write_text("".join(nemo(one, ExportOptions("nemo")).text or "" for one in heard.values()))
    rows = pa.concat_tables(read_manifest(str(manifest), SourceConfig(roots=["/archive"]))).to_pylist()
    assert {row["id"]: row["channel"] for row in rows} == {"mixed": None, "right": 1, "both": SPLIT, "one-sided": SPLIT}
    assert [pairs_of(one, pairs_of="recordings")[0][0].get("channel") for one in heard.values()] == [
        None,
        1,
        None,
        None,
    ]


def test_segments_are_placed_inside_the_object() -> None:
    found, left_out = pairs_of(transcript("a", SPOKEN, offset_s=100.0, language="de"), min_duration_s=1.0)
    (line,) = found
    assert (line["offset"], line["duration"], line["text"], line["lang"]) == (102.0, 6.0, "a good sentence", "en")
    assert (line["id"], line["recording_id"], line["confidence"]) == ("a#1", "a", 0.75)
    assert left_out == {"too_short": 1, "flagged": 1, "no_text": 1, "too_long": 1}


def test_flags_may_be_let_in_and_lengths_are_the_users() -> None:
    found, left_out = pairs_of(transcript("a", SPOKEN), flags=True, max_duration_s=40.0)
    assert [line["text"] for line in found] == ["short one", "a good sentence", "loop loop loop", "long"]
    assert left_out == {"no_text": 1}


@pytest.mark.parametrize(
    ("counts", "max_wer", "reason"), [(TWO_WRONG, 0.2, None), (TWO_WRONG, 0.19, "wer"), (None, 0.5, "not_scored")]
)
def test_word_error_rate_is_the_recordings(counts: ErrorCounts | None, max_wer: float, reason: str | None) -> None:
    found, left_out = pairs_of(transcript("a", SPOKEN[1:2], word_errors=counts), max_wer=max_wer)
    assert left_out == ({reason: 1} if reason else {})
    assert [line["wer"] for line in found] == ([] if reason else [0.2])


def test_whole_recordings_with_their_reference() -> None:
    scored = transcript("a", SPOKEN[1:2], reference_text="the truth", word_errors=TWO_WRONG, flags=())
    (line,) = pairs_of(scored, pairs_of="recordings", text="reference")[0]
    assert (line["text"], line["duration"], line["id"]) == ("the truth", 10.0, "a")
    (line,) = pairs_of(scored, pairs_of="recordings")[0]
    assert (line["text"], line["reference"]) == ("a good sentence", "the truth")
    assert pairs_of(transcript("a"), pairs_of="recordings", text="reference")[1] == {"no_text": 1}


def test_partial_recordings_teach_nothing() -> None:
    assert pairs_of(transcript("a", SPOKEN[:2], status="partial")) == ([], {"partial": 2})
    assert pairs_of(transcript("a")) == ([], {"no_text": 1})


def test_identity_is_of_the_options_that_matter() -> None:
    assert ExportOptions("ctm", line_width=9, max_wer=0.5).relevant() == ExportOptions("ctm").relevant()
    assert ExportOptions("srt", line_width=9).relevant() != ExportOptions("srt").relevant()
