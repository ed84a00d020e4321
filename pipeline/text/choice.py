"""Which of two hypotheses of one stretch stands: the first, unless the second is better by rules that can be said. Pure.

A hypothesis is worse the heavier its worst flag is, and then the more its flags weigh together; one that failed is the worst. The
second replaces the first only if it is lighter and says about as much, so a text is never replaced by a worse one, nor by a
shorter one that leaves something out. What the first engine made up need not be kept: phrases that it says again and again, and
texts on silence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from pipeline.records import Segment
from pipeline.text.flags import DEFAULT_LIMITS, FLAGS, compression_ratio, spoken_chars, without_repeats
from pipeline.text.stitch import transcript_text

RETRIED = "retried"  # the mark of a segment that another engine than the row's heard

# What is wrong with a text, from a doubt to nothing right: a wrong text is worse than an incomplete one, no text is the worst.
WEIGHTS: dict[str, int] = {
    "draft": 1,
    "low_confidence": 2,
    "too_fast": 3,
    "token_budget_hit": 3,
    "language_not_allowed": 4,
    "compressible": 5,
    "repeated_ngrams": 5,
    "text_on_silence": 5,
    "loop_cut": 5,
    "empty_on_speech": 6,
}
_CIRCLES = frozenset({"repeated_ngrams", "compressible", "loop_cut"})
# Beside its plain repeats, a text may go round with small changes: so regular a rest is made up as well.
_MADE_UP_RATIO = DEFAULT_LIMITS.compression_ratio or 2.4
MENDABLE = frozenset(FLAGS) - {"draft"}  # what a retry hears again unless told otherwise: a draft is no defect

Reason = Literal[
    "recovered",  # second: the first try had failed
    "filled",  # second: speech that had no text has one
    "lighter",  # second: lighter flags, and as much said
    "surer",  # second: the same engine, equal flags, more confident
    "second_failed",  # first: the second try failed, wholly or in part
    "first_unflagged",  # first: there is nothing wrong with it (any more)
    "no_text",  # first: the second gave no text for speech
    "second_flagged",  # first: there was no text, and the second's is doubtful
    "covers_less",  # first: the second leaves something out
    "not_lighter",  # first: the second is as doubtful, or more
    "moved",  # first: its segments are not those that were heard again
]


@dataclass(frozen=True, slots=True)
class Heard:
    """One hypothesis of a stretch. `engine` names who heard it, model and revision included; None: several did."""

    segments: tuple[Segment, ...] = ()
    unheard: bool = False  # a part of it is speech without text
    failed: bool = False
    engine: str | None = None

    @property
    def text(self) -> str:
        """What was said."""
        return transcript_text(self.segments, None)

    @property
    def flags(self) -> tuple[str, ...]:
        """All flags of the stretch, each once."""
        found = [flag for segment in self.segments for flag in segment.flags]
        return tuple(dict.fromkeys([*found, *(["empty_on_speech"] if self.unheard else [])]))

    @property
    def confidence(self) -> float | None:
        """The segments' confidences by their letters; None where one has none."""
        weighed = [(segment.confidence, spoken_chars(segment.text)) for segment in self.segments]
        letters = sum(weight for _, weight in weighed)
        known = [confidence * weight for confidence, weight in weighed if confidence is not None]
        return sum(known) / letters if letters and len(known) == len(weighed) else None

    @property
    def burden(self) -> tuple[bool, int, int]:
        """How bad it is; lower is better. Flags that are not ours weigh nothing."""
        weights = [WEIGHTS.get(flag, 0) for flag in self.flags]
        return self.failed, max(weights, default=0), sum(weights)


@dataclass(frozen=True, slots=True)
class Guard:
    """What must hold before a text is replaced, as in RetryConfig."""

    min_coverage: float = 0.9
    min_gain: float = 0.05


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether the second hypothesis stands, and why."""

    second: bool
    reason: Reason


def choose(first: Heard, second: Heard, guard: Guard = Guard()) -> Choice:
    """The hypothesis that stands; of equals the first."""
    if second.failed:
        return Choice(False, "second_failed")
    if first.failed:
        return Choice(True, "recovered")
    if not any(first.burden):
        return Choice(False, "first_unflagged")
    # That a stretch is silent is believed only where the first text was too much for the speech found in it.
    if not second.text and (second.unheard or "text_on_silence" not in first.flags):
        return Choice(False, "no_text")
    if not first.text:
        return Choice(False, "second_flagged") if any(second.burden) else Choice(True, "filled")
    if said(second.segments) < guard.min_coverage * sum(map(_worth_keeping, first.segments)):
        return Choice(False, "covers_less")
    if second.burden < first.burden:
        return Choice(True, "lighter")
    if second.burden == first.burden and _gain(first, second) > guard.min_gain:
        return Choice(True, "surer")
    return Choice(False, "not_lighter")


def said(segments: Iterable[Segment]) -> float:
    """How much was said: letters and digits, those that stand for a syllable counted as more."""
    return sum(spoken_chars(segment.text) for segment in segments)


def _worth_keeping(segment: Segment) -> float:
    """How much of a segment was not made up, counted as `said` does: what comes before a circle may be true."""
    if "text_on_silence" in segment.flags:
        return 0.0
    if not _CIRCLES & set(segment.flags):
        return spoken_chars(segment.text)
    rest = without_repeats(segment.text)
    return 0.0 if compression_ratio(rest) > _MADE_UP_RATIO else spoken_chars(rest)


def _gain(first: Heard, second: Heard) -> float:
    """Confidence gained. What two engines call confidence cannot be compared."""
    if first.engine is None or first.engine != second.engine or None in (first.confidence, second.confidence):
        return 0.0
    return (second.confidence or 0.0) - (first.confidence or 0.0)
