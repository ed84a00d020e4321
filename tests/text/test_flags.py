"""Quality flags: real speech has none, what goes wrong has its own, and they depend on nothing but the segment."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import FlagsConfig, RunConfig, ScoreConfig
from pipeline.records import (
    Chunk,
    DecodedWindow,
    EngineStats,
    Hypothesis,
    Recording,
    Segment,
    Shard,
    Span,
    TranscribedShard,
    Window,
)
from pipeline.text.flags import (
    DEFAULT_LIMITS,
    FLAGS,
    FROM_THE_CHUNK,
    chunk_flags,
    compression_ratio,
    in_order,
    judged,
    longest_repeat,
    row_flags,
    spoken_chars,
)
from pipeline.text.stitch import join_windows
from pipeline.text.transcript import transcripts_of

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def segment(text: str, length_s: float = 30.0, **fields: object) -> Segment:
    return replace(Segment(0, 0.0, length_s, text), **fields)  # type: ignore[arg-type]


def flags_of(text: str, length_s: float = 30.0, **fields: object) -> tuple[str, ...]:
    return judged(segment(text, length_s, **fields), DEFAULT_LIMITS).flags


def chunk(length_s: float, speech_s: float | None) -> Chunk:
    return Chunk(0, 0, 0.0, length_s, 0, round(length_s * 16_000), speech_s)


@pytest.mark.parametrize(
    "text",
    [
        "No, no, no, no.",
        "No-no-no-no-no-no!",
        "Zero zero zero zero zero zero zero, four four four.",
        "The number is 0 0 0 0 0 0 0 1.",
        "One, two, three, one, two, three, one, two, three.",
        "Row, row, row your boat, gently down the stream. Merrily, merrily, merrily, merrily, life is but a dream.",
        "Thank you. Thank you. Thank you. Thank you very much.",
        "はい、はい、はい、はい、そうです。",
        "对对对对对，没错。",
        "हाँ हाँ हाँ हाँ, ठीक है।",
        "",
    ],
)
def test_people_repeat_themselves(text: str) -> None:
    assert flags_of(text) == ()


@pytest.mark.parametrize(
    "text",
    [
        "you " * 40,
        "I'm going to go to the bathroom. " * 8,
        "So this is it, and then it goes on, and it goes on, and it goes on, and it goes on, and it goes on.",
        "ご視聴ありがとうございました。" * 4,
        "谢谢大家。" * 8,
        "ขอบคุณครับ" * 6,
        "धन्यवाद आपका " * 9,
        "감사합니다 " * 14,
        "ha" + "-ha" * 20,
    ],
)
def test_text_that_goes_round_in_circles_is_flagged(text: str) -> None:
    assert "repeated_ngrams" in flags_of(text)


def test_marks_are_no_words() -> None:
    assert longest_repeat("♪ " * 40) == longest_repeat("... " * 40) == longest_repeat("。、" * 40) == 0


LETTERS = st.sampled_from(["abcdefg", "абвгд", "あいうえかき", "的一是不了人", "กขคงจ", "अआकख", "가나다라마"])


@given(st.data(), LETTERS, st.integers(3, 8), st.integers(0, 5), st.integers(0, 5))
def test_any_phrase_said_often_enough_is_found(
    data: st.DataObject, letters: str, turns: int, before: int, after: int
) -> None:
    words = st.text(letters, min_size=3, max_size=4)
    phrase = data.draw(st.lists(words, min_size=4, max_size=8))
    lead, tail = (data.draw(st.lists(words, min_size=size, max_size=size)) for size in (before, after))
    assert longest_repeat(" ".join([*lead, *phrase * turns, *tail])) >= 12
    assert longest_repeat(" ".join(phrase * turns).upper() + "?") == longest_repeat(", ".join(phrase * turns))


def test_references_of_real_speech_are_not_flagged(shared_data: Path) -> None:
    with (shared_data / "INDEX.tsv").open(encoding="utf-8", newline="") as handle:
        rows = [
            row
            for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if row["ref_kind"].startswith("gold")
        ]
    rows = [row for row in rows if not row["reference"].endswith((".stm", ".txt")) and float(row["duration_s"]) <= 60]
    assert len(rows) > 300
    flagged = [row["path"] for row in rows if flags_of(row["reference"], float(row["duration_s"]))]
    assert len(flagged) <= 0.005 * len(rows), flagged


def test_compression_is_judged_by_the_thousand_characters(shared_data: Path) -> None:
    with (shared_data / "INDEX.tsv").open(encoding="utf-8", newline="") as handle:
        rows = [
            row
            for row in csv.DictReader(handle, delimiter="\t", quoting=csv.QUOTE_NONE)
            if row["path"].startswith("a/librispeech")
        ]
    long = " ".join(row["reference"] for row in rows)
    assert len(long) > 10_000
    assert compression_ratio(long) < 2.2
    assert compression_ratio(long + " and so it was said" * 60) > 2.4, "a loop at the end of a long text is found"
    assert compression_ratio("") < 1
    assert compression_ratio("no no no") < 1


def test_pace_is_counted_in_letters_and_syllables() -> None:
    assert flags_of("Thank you for watching!", 0.3) == (), "too short a stretch to say"
    assert flags_of("a brown fox jumps over the lazy dog and a cat too", 1.0) == ("too_fast",)
    assert flags_of("a brown fox jumps over the lazy dog and a cat too", 1.5) == ()
    assert flags_of("今日はとてもいい天気です", 1.0) == (), "ten syllables a second can be said"
    assert flags_of("今日はとてもいい天気ですから散歩に行きましょう", 1.0) == ("too_fast",)
    assert spoken_chars("Ja, 10!") == 4
    assert spoken_chars("안녕 ok") == 2 * 2.5 + 2


def test_confidence() -> None:
    assert flags_of("Yes.", confidence=0.2) == ("low_confidence",)
    assert flags_of("Yes.", confidence=0.5) == flags_of("Yes.", confidence=None) == ()


def test_languages_that_are_not_allowed() -> None:
    for language, allowed, expected in (
        ("pt", ["pt-BR"], ()),
        ("pt-PT", ["PT"], ()),
        ("nl", ["de", "en"], ("language_not_allowed",)),
        ("nl", [], ()),
        (None, ["de"], ()),
    ):
        assert judged(segment("Ja.", language=language), DEFAULT_LIMITS, allowed).flags == expected


def test_what_the_chunk_knows() -> None:
    def found(stop_reason: str, text: str = "Ten letters", speech_s: float | None = 2.0) -> tuple[str, ...]:
        return chunk_flags(chunk(20.0, speech_s), Hypothesis(text, stop_reason=stop_reason), DEFAULT_LIMITS)

    assert found("eos") == found("single_pass") == ()
    assert [found(reason) for reason in ("length", "loop", "draft")] == [
        ("token_budget_hit",),
        ("loop_cut",),
        ("draft",),
    ]
    assert found("eos", "Thank you for watching this video", 0.3) == ("text_on_silence",)
    assert found("length", "Thank you for watching this video", 0.3) == ("text_on_silence", "token_budget_hit")
    assert found("eos", "Thank you for watching this video", None) == (), "nobody looked for speech"
    parts = Hypothesis("", segments=(Segment(0, 0.0, 9.0, "Thank you for"), Segment(1, 9.0, 20.0, "watching this")))
    assert chunk_flags(chunk(20.0, 0.3), parts, DEFAULT_LIMITS) == ("text_on_silence",)


def test_segments_without_a_confidence_have_their_chunks() -> None:
    parts = (Segment(0, 0.0, 4.0, "one"), Segment(1, 4.0, 9.0, "two", confidence=0.9))
    (row,) = transcripts_of(
        shard(Hypothesis("", confidence=0.2, segments=parts), length_s=10.0, speech_s=8.0), ScoreConfig()
    )
    assert [(one.confidence, one.flags) for one in row.segments] == [(0.2, ("low_confidence",)), (0.9, ())]


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("repeated_words", "repeated_ngrams"),
        ("chars_per_s", "too_fast"),
        ("compression_ratio", "compressible"),
        ("confidence", "low_confidence"),
        ("silence_chars_per_s", "text_on_silence"),
        ("unheard_speech_s", "empty_on_speech"),
    ],
)
def test_null_switches_one_off_and_no_other(field: str, flag: str) -> None:
    bad = Hypothesis("and so on and on " * 30, confidence=0.1)

    def found(limits: FlagsConfig) -> set[str]:
        (row,) = transcripts_of(shard(bad, Hypothesis(""), length_s=10.0, speech_s=1.5), ScoreConfig(), limits)
        return set(row.flags)

    everything = found(DEFAULT_LIMITS)
    assert flag in everything
    assert found(FlagsConfig.model_validate({field: None})) == everything - {flag}


def shard(*heard: Hypothesis, length_s: float, speech_s: float | None) -> TranscribedShard:
    """One recording, a chunk for each hypothesis."""
    end_s = length_s * len(heard)
    chunks = tuple(
        replace(chunk(length_s, speech_s), index=n, start_s=n * length_s, end_s=(n + 1) * length_s)
        for n in range(len(heard))
    )
    planned = Shard("00000-aa", 0, (Window(Recording("a", "/a"), 0, 1, 0.0, end_s),), end_s)
    return TranscribedShard(planned, (DecodedWindow(0.0, end_s),), chunks, heard, EngineStats())


def test_speech_without_text_is_unheard() -> None:
    said, nothing = Hypothesis("Two words"), Hypothesis("", stop_reason="silence")
    (row,) = transcripts_of(shard(said, nothing, said, length_s=10.0, speech_s=4.0), ScoreConfig())
    assert row.spans == (Span(10.0, 20.0, "unheard"),)
    assert (row.flags, row.status) == (("empty_on_speech",), "ok")
    for speech_s in (0.5, None):
        (row,) = transcripts_of(shard(said, nothing, length_s=10.0, speech_s=speech_s), ScoreConfig())
        assert (row.spans, row.flags) == ((Span(10.0, 20.0, "non_speech"),), ())


def test_a_row_has_the_flags_of_its_segments_and_of_all_its_windows() -> None:
    slow, doubtful = Hypothesis("Two words"), Hypothesis("Two words", confidence=0.1, stop_reason="length")
    (first,) = transcripts_of(shard(slow, doubtful, length_s=10.0, speech_s=4.0), ScoreConfig())
    assert [one.flags for one in first.segments] == [(), ("low_confidence", "token_budget_hit")]
    assert first.flags == ("low_confidence", "token_budget_hit")
    (last,) = transcripts_of(shard(Hypothesis(""), slow, length_s=10.0, speech_s=4.0), ScoreConfig())
    windows = [replace(row, window_index=n, window_count=2, id="a") for n, row in enumerate((first, last))]
    assert join_windows(windows).flags == ("empty_on_speech", "low_confidence", "token_budget_hit")


limits = st.builds(
    FlagsConfig,
    repeated_words=st.none() | st.integers(3, 20),
    chars_per_s=st.none() | st.floats(1, 50),
    compression_ratio=st.none() | st.floats(1.1, 3),
    confidence=st.none() | st.floats(0.01, 0.99),
)
anything = st.text() | st.builds(lambda text, times: text * times, st.text(max_size=9), st.integers(1, 99))
surrogates = st.text(st.characters(categories=["Cs", "Cc", "Mn", "So", "Lo"]))
segments = st.builds(
    Segment,
    id=st.integers(0, 9),
    start_s=st.floats(0, 10),
    end_s=st.floats(0, 40),
    text=anything | surrogates,
    language=st.sampled_from([None, "en", "pt-BR"]),
    confidence=st.none() | st.floats(0, 1),
    flags=st.lists(st.sampled_from([*FLAGS, "loud"]), max_size=4).map(tuple),
)


@given(segments, limits, st.sampled_from([(), ("en",), ("pt",)]))
def test_judging_changes_flags_alone_and_once_is_enough(
    one: Segment, limits: FlagsConfig, allowed: tuple[str, ...]
) -> None:
    found = judged(one, limits, allowed)
    assert replace(found, flags=one.flags) == one
    assert judged(found, limits, allowed) == found
    assert judged(replace(one, flags=()), limits, allowed).flags == tuple(
        flag for flag in found.flags if flag not in FROM_THE_CHUNK | {"loud", "empty_on_speech"}
    )
    assert set(found.flags) & FROM_THE_CHUNK == set(one.flags) & FROM_THE_CHUNK


@given(st.data(), st.lists(segments, max_size=5), limits)
def test_neither_neighbours_nor_their_order_matter(
    data: st.DataObject, some: list[Segment], limits: FlagsConfig
) -> None:
    found = [judged(one, limits) for one in some]
    shuffled = data.draw(st.permutations(found))
    spans = data.draw(st.lists(st.builds(Span, st.just(0.0), st.just(1.0), st.sampled_from(["non_speech", "unheard"]))))
    assert row_flags(found, spans) == row_flags(shuffled, spans[::-1])
    assert set(row_flags(found, ())) == {flag for one in found for flag in one.flags}
    assert ("empty_on_speech" in row_flags((), spans)) is any(span.kind == "unheard" for span in spans)


@given(st.lists(st.sampled_from([*FLAGS, "loud", "odd"])))
def test_the_order_of_flags_is_one(flags: list[str]) -> None:
    assert in_order(in_order(flags)) == in_order(flags) == in_order(flags[::-1])
    assert sorted(in_order(flags)) == sorted(set(flags))


def test_the_page_names_every_flag_and_every_limit() -> None:
    page = (DOCS / "quality.md").read_text("utf-8")
    rows = {line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| `")}
    for flag, meaning in FLAGS.items():
        assert meaning in rows[f"`{flag}`"]
    for name, info in FlagsConfig.model_fields.items():
        assert f"`flags.{name}` {info.default:g}" in page
    assert "flags" in RunConfig.model_fields
