"""Words to segments: turns, pauses, and stretches that stay readable."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.granite_plus.dictation import Heard
from pipeline.engines.granite_plus.prompts import Mode
from pipeline.engines.granite_plus.segments import segments_of, words_of
from pipeline.engines.granite_plus.tags import Spoken, parse


def timed(text: str) -> list[Heard]:
    return [Heard(one, one.end_s or 0.0, 0.5) for one in parse(text)]


def untimed(text: str, step_s: float) -> list[Heard]:
    return [Heard(one, step_s * number, 0.5) for number, one in enumerate(parse(text), 1)]


def test_turns_are_segments_with_speakers_that_tile_the_chunk() -> None:
    heard = untimed("uh [Speaker 2]: good morning [Speaker 1]: hello [Speaker 2]: you", 1.5)
    found = segments_of(heard, 9.0, "speakers")
    assert [(one.speaker, one.text, one.start_s, one.end_s) for one in found] == [
        (None, "uh", 0.0, 1.5),
        ("Speaker 2", "good morning", 1.5, 4.5),
        ("Speaker 1", "hello", 4.5, 6.0),
        ("Speaker 2", "you", 6.0, 9.0),
    ]
    assert [word.speaker for word in found[1].words] == ["Speaker 2"] * 2
    assert all(word.start_s is None and word.end_s is None for word in words_of(heard))


def test_word_times_cut_at_silences_and_leave_them_out() -> None:
    heard = timed("_ [T:50] so [T:80] _ [T:170] it [T:190] _ [T:300] goes [T:330] _ [T:900]")
    found = segments_of(heard, 9.5, "words")
    assert [(one.text, one.start_s, one.end_s) for one in found] == [("so it", 0.5, 1.9), ("goes", 3.0, 3.3)]
    assert [(word.word, word.start_s, word.end_s) for word in found[0].words] == [("so", 0.5, 0.8), ("it", 1.7, 1.9)]


@pytest.mark.parametrize("mode", ["transcript", "words"])
def test_long_stretches_are_cut(mode: Mode) -> None:
    found = segments_of(untimed("w " * 100, 1.0), 100.0, mode)
    assert [(one.start_s, one.end_s) for one in found] == [(0, 30), (30, 60), (60, 90), (90, 100)]
    assert bool(found[0].words) == (mode == "words")


def test_nothing_heard_is_no_segment() -> None:
    assert segments_of([], 5.0, "speakers") == ()
    assert segments_of(timed("_ [T:400]"), 5.0, "words") == ()


gaps = st.lists(st.tuples(st.sampled_from(["a", "b", ""]), st.integers(1, 3), st.floats(0, 20)), max_size=60)


@given(gaps, st.sampled_from(["transcript", "speakers", "words"]), st.booleans())
def test_no_word_is_lost_and_time_never_goes_back(
    words: list[tuple[str, int, float]], mode: Mode, has_times: bool
) -> None:
    at_s, heard = 0.0, []
    for word, speaker, gap_s in words:
        start_s, at_s = at_s, at_s + gap_s
        times = (round(start_s * 100), round(at_s * 100)) if has_times or not word else (None, None)
        heard.append(Heard(Spoken(word, speaker, *times), at_s, 0.5))
    found = segments_of(heard, at_s, mode)
    assert " ".join(one.text for one in found).split() == [word for word, _, _ in words if word]
    assert [one.id for one in found] == list(range(len(found)))
    times_s = [time_s for one in found for time_s in (one.start_s, one.end_s)]
    assert times_s == sorted(times_s)
    assert not times_s or (times_s[0] >= 0 and times_s[-1] <= at_s)
    if mode == "speakers":
        assert all(left.speaker != right.speaker for left, right in pairwise(found))
