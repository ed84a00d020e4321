"""Long chunks against a scribe that writes exactly what is said in the audio of a call, as a trained model would."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.granite_plus.dictation import Call, Dictation, Heard, Limits, Piece, Reply, audio_positions
from pipeline.engines.granite_plus.options import PlusOptions, limits_of
from pipeline.engines.granite_plus.tags import Spoken, parse, render

RATE_HZ = 16_000
PROMPT = 90


@dataclass(frozen=True)
class Said:
    """A word of the truth; words are unlike each other, so that a prefix tells where it ends."""

    word: str
    speaker: int
    start_cs: int
    end_cs: int


@dataclass
class Scribe:
    """Writes the words that end within a call's audio, after those of the prefix; half a word where the audio ends within it.

    Speakers are numbered as they come, those of the prefix as they are there.
    """

    truth: list[Said]
    mode: Literal["speakers", "words"]

    def write(self, call: Call) -> str:
        start_cs, end_cs = call.start * 100 // RATE_HZ, call.end * 100 // RATE_HZ
        before = [one for one in parse(call.prefix) if one.word]
        places = {one.word: number for number, one in enumerate(self.truth)}
        audible = [one for one in self.truth if start_cs <= one.start_cs < end_cs]
        if before:
            audible = [one for one in audible if places[one.word] > places[before[-1].word]]
        numbers = {self.truth[places[one.word]].speaker: one.speaker for one in before if one.speaker}
        highest = max((one.speaker or 0 for one in before), default=0)
        found: list[Spoken] = []
        reached_cs = self.truth[places[before[-1].word]].end_cs if before else start_cs
        for one in audible:
            if self.mode == "speakers":
                number = numbers.setdefault(one.speaker, highest + 1)
                highest = max(highest, number)
                found.append(Spoken(one.word if one.end_cs <= end_cs else one.word[:2], number))
                continue
            if one.start_cs > reached_cs:
                found.append(Spoken("", None, None, one.start_cs))
            found.append(
                Spoken(one.word if one.end_cs <= end_cs else one.word[:2], None, None, min(one.end_cs, end_cs))
            )
            reached_cs = one.end_cs
        return render(found, next((one.speaker for one in reversed(before)), None))


def tokens(text: str) -> int:
    return len(text) // 4 + 1


def dictate(
    said: list[Said], audio_s: float, limits: Limits, mode: Literal["speakers", "words"]
) -> tuple[Dictation, list[Call]]:
    """The dictation at its end, and its calls; every call is within the limits."""
    scribe = Scribe(said, mode)
    dictation = Dictation(round(audio_s * RATE_HZ), limits, tokens)
    calls: list[Call] = []
    while (call := dictation.next_call()) is not None:
        assert call.end > (calls[-1].end if calls else 0)
        assert call.end - call.start <= limits.window_s * RATE_HZ
        assert call.start % (10 * RATE_HZ) == 0
        assert call.budget >= 1
        needed = audio_positions(call.end - call.start) + PROMPT + tokens(call.prefix) * bool(call.prefix) + call.budget
        assert needed <= limits.positions
        calls.append(call)
        text = scribe.write(call)
        dictation.take(Reply([Piece(f" {piece}", 0.5) for piece in text.split(" ") if piece], tokens(text), "eos"))
    assert calls[-1].end == round(audio_s * RATE_HZ)
    return dictation, calls


@st.composite
def conversations(draw: st.DrawFn) -> tuple[list[Said], float]:
    """Words of 4 to 40 hundredths of a second, pauses under 9 s, up to three speakers, 1 to 200 s."""
    at_cs, speaker = draw(st.integers(0, 300)), 1
    said: list[Said] = []
    for number in range(draw(st.integers(1, 220))):
        if draw(st.integers(0, 5)) == 0:
            speaker = draw(st.integers(1, 3))
            at_cs += draw(st.integers(0, 900))
        end_cs = at_cs + draw(st.integers(10, 60))
        said.append(Said(f"w{number}x", speaker, at_cs, end_cs))
        at_cs = end_cs + draw(st.integers(0, 20))
    return said, (at_cs + draw(st.integers(0, 500))) / 100


def small(mode: Literal["speakers", "words"], positions: int = 1100) -> Limits:
    return Limits(positions, PROMPT, tokens_per_s=20.0, step_s=7.0, overlap_s=10.0, window_s=45.0)


@given(conversations())
@settings(max_examples=40)
def test_word_times_survive_steps_and_windows(conversation: tuple[list[Said], float]) -> None:
    said, audio_s = conversation
    dictation, _ = dictate(said, audio_s, small("words"), "words")
    words = [one.spoken for one in dictation.heard if one.spoken.word]
    assert [(one.word, one.start_cs, one.end_cs) for one in words] == [
        (one.word, one.start_cs, one.end_cs) for one in said
    ]
    assert dictation.warnings == {}


@given(conversations())
@settings(max_examples=40)
def test_no_word_is_lost_and_no_label_means_two_speakers(conversation: tuple[list[Said], float]) -> None:
    said, audio_s = conversation
    dictation, _ = dictate(said, audio_s, small("speakers"), "speakers")
    assert [one.spoken.word for one in dictation.heard] == [one.word for one in said]
    pairs = {(one.spoken.speaker, truth.speaker) for one, truth in zip(dictation.heard, said, strict=True)}
    assert len({label for label, _ in pairs}) == len(pairs)
    if "speakers_uncertain" not in dictation.warnings:
        assert len({speaker for _, speaker in pairs}) == len(pairs)


@given(conversations(), st.sampled_from(["speakers", "words"]))
@settings(max_examples=30)
def test_few_positions_make_shorter_windows_and_lose_nothing(
    conversation: tuple[list[Said], float], mode: Literal["speakers", "words"]
) -> None:
    said, audio_s = conversation
    limits = small(mode)
    limits = small(mode, positions=limits.needed())
    dictation, _ = dictate(said, audio_s, limits, mode)
    assert [one.spoken.word for one in dictation.heard if one.spoken.word] == [one.word for one in said]


def talk(audio_s: float, speakers: int = 2) -> list[Said]:
    """Two words a second; the speaker changes every 4 s."""
    return [
        Said(f"w{number}x", number // 8 % speakers + 1, number * 50 + 10, number * 50 + 45)
        for number in range(int(audio_s * 2))
    ]


@pytest.mark.parametrize(("mode", "times"), [("speakers", 3.0), ("words", 1.6)])
def test_half_an_hour_with_the_defaults(mode: Literal["speakers", "words"], times: float) -> None:
    limits = limits_of(PlusOptions(mode=mode), 4096, PROMPT)
    said = talk(1800)
    dictation, calls = dictate(said, 1800.0, limits, mode)
    words = [one for one in dictation.heard if one.spoken.word]
    assert [one.spoken.word for one in words] == [one.word for one in said]
    if mode == "speakers":
        assert [one.spoken.speaker for one in words] == [one.speaker for one in said]
    assert len(calls) == 30
    assert sum(call.end - call.start for call in calls) / RATE_HZ / 1800 < times  # that audio is heard
    starts = [call.start for call in calls]
    assert starts == sorted(starts)
    assert len(set(starts)) > 3


def test_a_prefix_is_what_was_heard_in_the_window() -> None:
    said = talk(60)
    _, calls = dictate(said, 60.0, small("speakers"), "speakers")
    first, second, *_, last = calls
    assert (first.start, first.prefix) == (0, "")
    assert second.start == 0
    assert second.prefix.startswith("[Speaker 1]: w0x w1x")
    assert "w10x" in second.prefix
    assert last.start == 30 * RATE_HZ
    assert last.prefix.startswith("[Speaker ")


def run(dictation: Dictation, *replies: str, reason: str = "eos") -> list[Call]:
    """Feed replies, the last one again and again; `reason` is that of the first."""
    calls: list[Call] = []
    while (call := dictation.next_call()) is not None:
        text = replies[min(len(calls), len(replies) - 1)]
        calls.append(call)
        pieces = [Piece(f" {piece}", 0.5) for piece in text.split()]
        dictation.take(Reply(pieces, len(pieces), reason if len(calls) == 1 else "eos"))
    return calls


def texts(heard: list[Heard]) -> list[str]:
    return [one.spoken.word for one in heard]


def test_a_short_chunk_is_one_call() -> None:
    dictation = Dictation(6 * RATE_HZ, small("speakers"), tokens)
    calls = run(dictation, "one two three four")
    assert [(call.start, call.end, call.prefix) for call in calls] == [(0, 6 * RATE_HZ, "")]
    assert texts(dictation.heard) == ["one", "two", "three", "four"]


def test_the_words_before_a_cut_are_heard_again() -> None:
    dictation = Dictation(14 * RATE_HZ, small("speakers"), tokens)
    calls = run(dictation, "[Speaker 1]: a b c d e", "c [Speaker 2]: D E f")
    assert [call.prefix for call in calls] == ["", "[Speaker 1]: a b"]
    assert [(one.spoken.word, one.spoken.speaker) for one in dictation.heard] == [
        ("a", 1), ("b", 1), ("c", 1), ("D", 2), ("E", 2), ("f", 2),
    ]  # fmt: skip


def test_words_before_a_cut_stay_where_the_model_falls_silent() -> None:
    dictation = Dictation(14 * RATE_HZ, small("speakers"), tokens)
    run(dictation, "a b c d e", "")
    assert texts(dictation.heard) == ["a", "b", "c", "d", "e"]


def test_after_a_loop_the_model_begins_afresh() -> None:
    dictation = Dictation(21 * RATE_HZ, small("speakers"), tokens)
    calls = run(dictation, "no no", "so it goes on", reason="loop")
    assert [call.prefix for call in calls[:2]] == ["", ""]
    assert (list(dictation.warnings), dictation.stop_reason) == ([], "loop")
    assert texts(dictation.heard)[-4:] == ["so", "it", "goes", "on"]


def test_a_full_budget_is_told() -> None:
    dictation = Dictation(3 * RATE_HZ, small("speakers"), tokens)
    run(dictation, "a b", reason="length")
    assert (list(dictation.warnings), dictation.stop_reason) == ([], "length")


def test_positions_of_audio() -> None:
    assert [audio_positions(size) for size in (1_600, 4_640, 4_960, 16_000)] == [3, 3, 6, 12]
