"""Whether a corrected transcript is still the transcript. Pure.

Models that are to correct summarise, translate, stop half-way or answer what is said instead. Such an answer must not take the
transcript's place.
"""

from __future__ import annotations

from pipeline.metrics.wer import count_char_errors, error_rate
from pipeline.text.normalize import normalize, normalizer_for

_SHORTEST, _LONGEST = (
    0.7,
    1.5,
)  # of the answer's characters to the text's: correcting changes words, not how much was said
_FEW_CHARS = 12  # too few for a share to mean much: "ok" may become "okay"


def keeps_text(text: str, answer: str, max_change: float) -> bool:
    """Whether the answer holds about as much as the text, and at most `max_change` of its characters differ.

    Spelling alone counts: case, punctuation and spaces are what a correction is for.
    """
    normalizer = normalizer_for("auto", None)
    before, after = (normalize(each, normalizer).replace(" ", "") for each in (text, answer))
    if not after or not before:
        return before == after
    if abs(len(before) - len(after)) > _FEW_CHARS and not _SHORTEST <= len(after) / len(before) <= _LONGEST:
        return False
    changed = error_rate(count_char_errors(before, after))
    return changed is not None and changed <= max_change
