"""The tag parser: what tags say, what damaged ones leave, and that it undoes its own renderer."""

from __future__ import annotations

import re

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.engines.granite_plus.tags import Spoken, parse, render, unwrap

TIME_OR_SPEAKER = re.compile(r"\[Speaker [0-9]{1,4}\]:|\[T:0*[0-9]{1,3}\]")
SILENT = re.compile(r"(?<!\S)_\s*(?=\[T:0*[0-9]{1,3}\])")


def times(text: str, reached_cs: int = 0) -> list[tuple[str, float | None, float | None]]:
    return [(one.word, one.start_s, one.end_s) for one in parse(text, reached_cs=reached_cs)]


def test_times_are_unwrapped_and_words_begin_where_the_last_one_ended() -> None:
    text = "hello [T:45] world [T:082] _ [T:950] again [T:12] later [T:5]"
    assert times(text) == [
        ("hello", 0.0, 0.45),
        ("world", 0.45, 0.82),
        ("", 0.82, 9.5),
        ("again", 9.5, 10.12),
        ("later", 10.12, 20.05),
    ]


def test_turns_have_speakers_and_text_before_the_first_has_none() -> None:
    found = parse("so [Speaker 1]: good morning[Speaker 2]:hello [Speaker 1]: bye")
    assert [(one.word, one.speaker) for one in found] == [
        ("so", None),
        ("good", 1),
        ("morning", 1),
        ("hello", 2),
        ("bye", 1),
    ]


def test_a_continuation_takes_over_speaker_and_clock() -> None:
    (found,) = parse("there [T:3]", speaker=2, reached_cs=1999)
    assert found == Spoken("there", 2, 1999, 2003)


def test_a_word_without_a_tag_has_no_times_nor_does_the_next_one_begin_anywhere() -> None:
    assert times("one [T:10] two three [T:30] four [T:40]") == [
        ("one", 0.0, 0.1),
        ("two", None, None),
        ("three", None, 0.3),
        ("four", 0.3, 0.4),
    ]


def test_damaged_tags_stay_as_text() -> None:
    text = "a [T:x] b [T:1000] c [T: 5] [Speaker one]: d [Speaker 1] e [T:7 f _ g [T:"
    assert "".join(one.word for one in parse(text)) == "".join(text.split())


def test_a_time_behind_the_end_of_the_audio_is_not_believed() -> None:
    found = parse("a [T:90] b [T:80] c [T:95] d [T:10]", limit_cs=100)
    assert [(one.word, one.start_cs, one.end_cs) for one in found] == [
        ("a", 0, 90),
        ("b", None, None),
        ("c", None, 95),
        ("d", None, None),
    ]
    assert [one.end_cs for one in parse("a [T:120]", limit_cs=100)] == [100]


def test_digits_come_back_as_they_were_written() -> None:
    text = "[Speaker 2]: a [T:012] b [T:30]"
    assert render(parse(text)) == text
    assert render(parse("[Speaker 2]: a", speaker=2), speaker=2) == "a"


words = st.text(st.characters(exclude_categories=["Z", "C"], exclude_characters="["), min_size=1).filter(
    lambda w: w != "_"
)


@st.composite
def transcripts(draw: st.DrawFn) -> list[Spoken]:
    """What a model may have said: times that never go back, silences under 10 s, speakers that stay until the next tag."""
    speaker, before_cs, reached_cs = None, 0, 0
    found: list[Spoken] = []
    for word in draw(st.lists(st.one_of(words, st.just("")))):
        speaker = draw(st.sampled_from([speaker, 1, 2, 17]))
        if word and draw(st.booleans()) and draw(st.booleans()):
            found.append(Spoken(word, speaker))
            before_cs = None
            continue
        end_cs = reached_cs + draw(st.integers(0, 999))
        found.append(Spoken(word, speaker, before_cs, end_cs))
        before_cs = reached_cs = end_cs
    return found


@given(transcripts())
def test_parsing_undoes_rendering(spoken: list[Spoken]) -> None:
    assert list(parse(render(spoken))) == spoken
    speaker = next((one.speaker for one in spoken if one.speaker), None)
    assert render(parse(render(spoken))) == render(spoken)
    assert all(one.speaker is not None for one in parse(render(spoken), speaker=speaker or 1))


@given(transcripts(), st.data())
def test_a_text_may_be_read_in_two_parts(spoken: list[Spoken], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(spoken)))
    before = spoken[:at]
    speaker = before[-1].speaker if before else None
    reached_cs = next((one.end_cs for one in reversed(before) if one.end_cs is not None), 0)
    rest = parse(render(spoken[at:], speaker), speaker=speaker, reached_cs=reached_cs)
    assert [(one.word, one.speaker, one.end_cs) for one in rest] == [
        (one.word, one.speaker, one.end_cs) for one in spoken[at:]
    ]


@given(st.lists(st.integers(0, 999)))
def test_the_clock_never_goes_back_nor_skips_a_turn(gaps_cs: list[int]) -> None:
    reached_cs = said_cs = 0
    for gap_cs in gaps_cs:
        said_cs += gap_cs
        reached_cs = unwrap(said_cs % 1000, reached_cs)
        assert reached_cs == said_cs


@given(st.integers(0, 999), st.integers(0, 10**7))
def test_unwrapping_finds_the_first_time_that_fits(shown_cs: int, reached_cs: int) -> None:
    found = unwrap(shown_cs, reached_cs)
    assert found % 1000 == shown_cs
    assert 0 <= found - reached_cs < 1000


PARTS = [
    "[T:",
    "[T:45]",
    "]",
    "[Speaker ",
    "[Speaker 1]:",
    "2]:",
    "_",
    " ",
    "\n",
    "a",
    "[[T:7]",
    "[T:-1]",
    "[t:5]",
    "9",
    ":",
    "é",
]


@given(st.one_of(st.text(), st.lists(st.sampled_from(PARTS)).map("".join)), st.one_of(st.none(), st.integers(0, 99)))
@example("_ [Speaker 1]: [T:10]", None)
@example("[T:٣]", None)
def test_no_text_is_lost(text: str, limit_cs: int | None) -> None:
    left = TIME_OR_SPEAKER.sub(" ", SILENT.sub(" ", text))
    found = parse(text, limit_cs=limit_cs)
    assert [one.word for one in found if one.word] == left.split()
    ends_cs = [one.end_cs for one in found if one.end_cs is not None]
    assert ends_cs == sorted(ends_cs)
    assert limit_cs is None or all(end_cs <= limit_cs for end_cs in ends_cs)
    for one in found:
        assert not one.word or text.startswith(one.word, one.begin)
        assert one.start_cs is None or one.end_cs is not None
        assert one.start_cs is None or one.end_cs is None or one.start_cs <= one.end_cs
