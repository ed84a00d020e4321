"""From labels to tokens and words: properties, and a loop that anybody can read."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.ctc.alignment import Tokens, WordSpan, choose, collapse, find_words, span_times

BLANK = 0
LABELS = st.lists(st.integers(0, 4), max_size=60)
FRAME_S = 0.08


def naive(labels: list[int], confidences: list[float]) -> list[tuple[int, int, int, float]]:
    """(id, first frame, end frame, highest posterior) of every token, frame by frame."""
    found: list[tuple[int, int, int, float]] = []
    before = BLANK
    for frame, (label, confidence) in enumerate(zip(labels, confidences, strict=True)):
        if label != BLANK and label == before:
            id_, first, _, highest = found[-1]
            found[-1] = (id_, first, frame + 1, max(highest, confidence))
        elif label != BLANK:
            found.append((label, frame, frame + 1, confidence))
        before = label
    return found


def collapsed(labels: list[int], confidences: list[float]) -> Tokens:
    return collapse(np.array(labels, np.int64), np.array(confidences, np.float32), BLANK)


def confidences_of(labels: list[int]) -> list[float]:
    return np.random.default_rng(len(labels)).random(len(labels), np.float32).tolist()


@given(LABELS)
def test_collapsing_is_what_the_loop_says(labels: list[int]) -> None:
    confidences = confidences_of(labels)
    tokens = collapsed(labels, confidences)
    assert list(zip(*(values.tolist() for values in tokens), strict=True)) == naive(labels, confidences)


@given(LABELS)
def test_tokens_are_in_order_inside_the_clip_and_apart(labels: list[int]) -> None:
    tokens = collapsed(labels, confidences_of(labels))
    frames = np.stack([tokens.first, tokens.end], 1).ravel()
    assert (np.diff(frames) >= 0).all()
    assert (tokens.end > tokens.first).all()
    assert not len(frames) or (frames[0] >= 0 and frames[-1] <= len(labels))
    assert BLANK not in tokens.ids


@given(LABELS, st.integers(1, 5))
def test_slower_speech_says_the_same(labels: list[int], times: int) -> None:
    """Every frame repeated: the same tokens, with frames and no more that many times as long."""
    once, slow = (collapsed(row, [0.5] * len(row)) for row in (labels, np.repeat(labels, times).astype(int).tolist()))
    assert (slow.ids.tolist(), slow.first.tolist()) == (once.ids.tolist(), (once.first * times).tolist())
    assert slow.end.tolist() == (once.end * times).tolist()


@given(st.lists(st.sampled_from("abcAB|"), max_size=40))
def test_words_are_what_a_split_of_the_text_gives(letters: list[str]) -> None:
    """Capitals begin a word, as "Ġ" does; bars separate words."""
    text = "".join(f" {letter}" if letter.isupper() else letter for letter in letters).replace("|", " ")
    spans = find_words(
        np.array([letter.isupper() for letter in letters], bool), np.array([letter == "|" for letter in letters], bool)
    )
    assert ["".join(letters[start:end]) for start, end in spans] == text.split()
    inside = [at for start, end in spans for at in range(start, end)]
    assert inside == [at for at, letter in enumerate(letters) if letter != "|"]


@given(LABELS, st.lists(st.booleans(), min_size=60, max_size=60))
def test_every_word_has_one_time_inside_the_clip(labels: list[int], begins: list[bool]) -> None:
    tokens = collapsed(labels, confidences_of(labels))
    audio_s = max(len(labels) * FRAME_S - 0.05, 0.0)  # frames may reach beyond the last sample
    spans = find_words(np.array(begins[: len(tokens.ids)], bool), tokens.ids == 4)
    times = [time for span in spans for time in span_times(tokens, span, FRAME_S, audio_s)]
    assert len(times) == 2 * len(spans)
    assert times == sorted(times)
    assert all(0 <= time <= audio_s for time in times)
    for span, start_s, end_s in zip(spans, times[::2], times[1::2], strict=True):
        first, last = tokens.first[span.start], tokens.end[span.end - 1]
        assert (start_s, end_s) == (min(round(first * FRAME_S, 3), audio_s), min(round(last * FRAME_S, 3), audio_s))


def test_an_example_by_hand() -> None:
    #        _  h  h  _  i  |  |  y  _  y
    labels = [0, 1, 1, 0, 2, 4, 4, 3, 0, 3]
    tokens = collapsed(labels, [0.9, 0.5, 0.8, 0.9, 0.7, 0.6, 0.6, 0.4, 0.9, 0.2])
    assert tokens.ids.tolist() == [1, 2, 4, 3, 3]
    np.testing.assert_allclose(tokens.confidences, [0.8, 0.7, 0.6, 0.4, 0.2])
    spans = find_words(np.zeros(5, bool), tokens.ids == 4)
    assert spans == [WordSpan(0, 2), WordSpan(3, 5)]
    assert [span_times(tokens, span, 0.1, 9.0) for span in spans] == [(0.1, 0.5), (0.7, 1.0)]
    assert choose(tokens, tokens.ids != 4).first.tolist() == [1, 4, 7, 9]
