"""SRT and VTT, read back by pysrt and webvtt-py, which know nothing of Quarry."""

from __future__ import annotations

from io import StringIO

import pysrt
import webvtt
from finished_run import said, timed, transcript
from hypothesis import given
from hypothesis import strategies as st

from pipeline.export.cues import cues_of, one_line
from pipeline.export.options import ExportOptions
from pipeline.export.subtitles import srt, vtt
from pipeline.records import Segment, Transcript

SRT, VTT = ExportOptions("srt"), ExportOptions("vtt")
HOSTILE = "1\n00:00:00,000 --> 00:00:09,000\n\nfake <b>bold</b> & <v Eve>more ---> \u202e\0 NOTE\nSTYLE"

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Zl", "Zp"]), max_size=120)
SEGMENTS = st.lists(st.builds(said, TEXTS, st.floats(0, 20), st.floats(20, 400_000)), max_size=4)


def read_srt(found: Transcript, options: ExportOptions = SRT) -> list[tuple[int, int, str]]:
    text = srt(found, options).text
    assert text is not None
    return [(one.start.ordinal, one.end.ordinal, one.text) for one in pysrt.from_string(text)]


def read_vtt(found: Transcript, options: ExportOptions = VTT) -> list[tuple[str, str, str, str | None]]:
    text = vtt(found, options).text
    assert text is not None
    return [(one.start, one.end, one.text, one.voice) for one in webvtt.from_buffer(StringIO(text))]


@given(SEGMENTS)
def test_srt_comes_back_cue_by_cue(segments: list[Segment]) -> None:
    told = cues_of(segments, 42, 2)
    found = read_srt(transcript("a", segments))
    assert [(start, end) for start, end, _ in found] == [(cue.start_ms, cue.end_ms) for cue in told]
    for (_, _, text), cue in zip(found, told, strict=True):
        assert text.replace("->", "").replace("-", "") == "\n".join(cue.lines).replace("->", "").replace("-", "")


def test_text_that_looks_like_subtitles_stays_text() -> None:
    found = transcript("a", [said(HOSTILE, 1, 2), said("next", 3, 4)])
    told = [(cue.start_ms, cue.end_ms) for cue in cues_of(found.segments, 42, 2)]
    assert [(start, end) for start, end, _ in read_srt(found)] == told
    assert told[-1] == (3000, 4000)
    text = srt(found, SRT).text or ""
    assert text.count("-->") == len(told)
    body = vtt(found, VTT).text or ""
    assert body.count("-->") == len(read_vtt(found)) == len(told)
    assert "<v" not in body
    assert "&lt;v Eve&gt;" in body.replace("\n", " ")


def test_vtt_comes_back_with_voices() -> None:
    found = transcript(
        "a",
        [
            timed("How do you do?", 1.0, speaker="Anna <& Co>"),
            timed("Fine, fine.", 4.0, speaker="Bo"),
            said("Nobody said this.", 3600 * 100 + 0.25, 3600 * 100 + 2),
        ],
    )
    assert read_vtt(found) == [
        ("00:00:01.000", "00:00:03.000", "How do you do?", "Anna &lt;&amp; Co&gt;"),
        ("00:00:04.000", "00:00:05.000", "Fine, fine.", "Bo"),
        ("100:00:00.250", "100:00:02.000", "Nobody said this.", None),
    ]
    assert [text for *_, text in read_srt(found)] == [
        "Anna <& Co>: How do you do?",
        "Bo: Fine, fine.",
        "Nobody said this.",
    ]


def test_width_and_count_of_lines_are_the_users() -> None:
    text = "one two three four five six seven eight nine ten"
    found = transcript("a", [timed(text)])
    narrow = read_vtt(found, ExportOptions("vtt", line_width=10, line_count=1))
    assert [text for _, _, text, _ in narrow] == ["one two", "three four", "five six", "seven", "eight nine", "ten"]
    assert narrow[1][:2] == ("00:00:01.000", "00:00:02.000")
    (one,) = read_vtt(found, ExportOptions("vtt", line_width=30, line_count=2))
    assert one[2].split("\n") == ["one two three four five six", "seven eight nine ten"]


def test_silence_is_a_file_without_cues() -> None:
    silent = transcript("a", [said(" ")])
    assert read_srt(silent) == []
    assert read_vtt(silent) == []


def test_an_ampersand_is_text_once_unescaped() -> None:
    (cue,) = read_vtt(transcript("a", [said("R&B <3")]))
    assert cue[2].replace("&lt;", "<").replace("&amp;", "&") == one_line("R&B <3")
