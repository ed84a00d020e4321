"""Which of two hypotheses stands: never the worse one, the first of equals, nothing left out."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.records import Segment
from pipeline.text.choice import RETRIED, WEIGHTS, Guard, Heard, choose, said
from pipeline.text.flags import FLAGS

MADE_UP = {"repeated_ngrams", "compressible", "text_on_silence", "loop_cut"}
flags = st.lists(st.sampled_from([*FLAGS, RETRIED, "of_some_engine"]), max_size=3, unique=True).map(tuple)
texts = st.text("ab 7é語カ.,", max_size=12).filter(str.strip)
segments = st.builds(
    Segment,
    id=st.just(0),
    start_s=st.just(0.0),
    end_s=st.just(1.0),
    text=texts,
    confidence=st.none() | st.floats(0, 1),
    flags=flags,
)
heards = st.builds(
    Heard,
    segments=st.lists(segments, max_size=3).map(tuple),
    unheard=st.booleans(),
    failed=st.booleans(),
    engine=st.sampled_from([None, "one", "other"]),
)
guards = st.builds(Guard, min_coverage=st.floats(0, 1), min_gain=st.floats(0, 0.5))


def heard(text: str, *flags: str, confidence: float | None = None, engine: str = "one", **more: bool) -> Heard:
    made = (Segment(0, 0.0, 1.0, text, confidence=confidence, flags=flags),) if text else ()
    return Heard(made, engine=engine, **more)


def test_every_flag_has_a_weight() -> None:
    assert WEIGHTS.keys() == FLAGS.keys()


@given(heards, heards, guards)
def test_a_worse_hypothesis_is_never_taken(first: Heard, second: Heard, guard: Guard) -> None:
    if not choose(first, second, guard).second:
        return
    assert not second.failed
    assert any(first.burden), "a first hypothesis without a flag was replaced"
    assert second.burden <= first.burden
    if second.burden == first.burden:
        assert first.engine is not None
        assert first.engine == second.engine
        assert (second.confidence or 0) > (first.confidence or 0)
    if not first.failed:
        kept = [segment for segment in first.segments if not MADE_UP & set(segment.flags)]
        assert said(second.segments) >= guard.min_coverage * said(kept)
        assert second.text or "text_on_silence" in first.flags


@given(heards, heards, guards)
def test_what_was_chosen_stands_against_both(first: Heard, second: Heard, guard: Guard) -> None:
    """Idempotent, also when the loser comes again: nothing goes to and fro."""
    if choose(first, second, guard).second:
        assert not choose(second, second, guard).second
        assert not choose(second, first, guard).second


@given(heards, guards)
def test_of_equals_the_first_stands(one: Heard, guard: Guard) -> None:
    assert not choose(one, one, guard).second


@given(heards, heards, guards)
def test_confidences_of_two_engines_are_not_compared(first: Heard, second: Heard, guard: Guard) -> None:
    assume(first.engine != second.engine or first.engine is None)
    assert choose(first, second, guard).reason != "surer"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (heard("", failed=True), heard("a word", "too_fast"), "recovered"),
        (heard("", failed=True), heard(""), "recovered"),  # silence, where nothing was known
        (heard("", unheard=True), heard("a word"), "filled"),
        (heard("a few word", "token_budget_hit"), heard("a few words more"), "lighter"),
        (heard("so so so so", "repeated_ngrams"), heard("so", engine="other"), "lighter"),
        (heard("thank you", "text_on_silence"), heard(""), "lighter"),
        (heard("a wort", "too_fast", confidence=0.4), heard("a word", "too_fast", confidence=0.9), "surer"),
    ],
)
def test_the_second_stands(first: Heard, second: Heard, reason: str) -> None:
    choice = choose(first, second)
    assert (choice.second, choice.reason) == (True, reason)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (heard("", failed=True), heard("", failed=True), "second_failed"),
        (heard("a word", "too_fast"), heard("", failed=True), "second_failed"),
        (heard("a word"), heard("another word", confidence=1.0), "first_unflagged"),
        (heard("a word", "retried"), heard("another word"), "first_unflagged"),
        (heard("", unheard=True), heard("", unheard=True), "no_text"),
        (heard("", unheard=True), heard(""), "no_text"),
        (heard("so so so so", "repeated_ngrams"), heard(""), "no_text"),
        (heard("thank you", "text_on_silence"), heard("", unheard=True), "no_text"),
        (heard("", unheard=True), heard("a word", "low_confidence"), "second_flagged"),
        (heard("a whole sentence", "low_confidence"), heard("a word"), "covers_less"),
        (heard("a word", "low_confidence"), heard("a word word", "too_fast"), "not_lighter"),
        (heard("a wort", "too_fast", confidence=0.4), heard("a word", "too_fast", confidence=0.44), "not_lighter"),
        (
            heard("a wort", "too_fast", confidence=0.4),
            heard("a word", "too_fast", confidence=0.9, engine="other"),
            "not_lighter",
        ),
    ],
)
def test_the_first_stands(first: Heard, second: Heard, reason: str) -> None:
    choice = choose(first, second)
    assert (choice.second, choice.reason) == (False, reason)


def test_good_words_beside_made_up_ones_must_be_covered() -> None:
    good = Segment(0, 0.0, 1.0, "an honest sentence", flags=("low_confidence",))
    made_up = Segment(1, 1.0, 2.0, "so so so so so", flags=("repeated_ngrams",))
    assert choose(Heard((good, made_up)), heard("a sentence")).reason == "covers_less"
    assert choose(Heard((good, made_up)), heard("an honest sentence")).reason == "lighter"


@pytest.mark.parametrize("flag", ["repeated_ngrams", "loop_cut", "compressible"])
def test_a_circle_at_the_end_does_not_give_up_the_sentence_before_it(flag: str) -> None:
    """Granite gives a chunk of 30 s as one segment: a few words of another engine are no better."""
    honest = "Emma was in no doubt that her father would be glad to see them all at Hartfield in the evening"
    looped = heard(f"{honest} and so and so and so and so and so and so", flag)
    assert choose(looped, heard("Thank you.", engine="other")).reason == "covers_less"
    assert choose(looped, heard(f"{honest}.", engine="other")).reason == "lighter"


def test_of_what_is_made_up_altogether_nothing_need_be_kept() -> None:
    """Small changes in every turn: no phrase comes three times in succession."""
    turns = " ".join(f"and then he went to the number {word} in the street" for word in "abcdefghijklmnopqrst")
    assert choose(heard(turns, "compressible"), heard("He left.", engine="other")).reason == "lighter"
