"""Word and character errors, as counts: a slice's rate is the sum of its errors over the sum of its reference lengths.

The counts are jiwer's. A row whose reference is empty (silence, or nothing left after normalisation) has length 0 and every
word of the hypothesis is an insertion: alone it has no rate (None), in a sum its insertions count.
"""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.records import ErrorCounts
from pipeline.text.normalize import Setting, normalize, normalizer_for

NO_ERRORS = ErrorCounts(substitutions=0, deletions=0, insertions=0, reference_length=0)


def count_word_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between words parted by spaces, of text that is already normalised."""
    import jiwer

    return _counts(jiwer.process_words(reference, hypothesis))


def count_char_errors(reference: str, hypothesis: str) -> ErrorCounts:
    """Edits between characters, the spaces between words included (as jiwer.cer counts), of normalised text."""
    import jiwer

    return _counts(jiwer.process_characters(reference, hypothesis))


def _counts(output: object) -> ErrorCounts:
    hits, substitutions, deletions, insertions = (
        int(getattr(output, name)) for name in ("hits", "substitutions", "deletions", "insertions")
    )
    return ErrorCounts(substitutions, deletions, insertions, hits + substitutions + deletions)


def score(
    reference_text: str, text: str, language: str | None, setting: Setting
) -> tuple[ErrorCounts, ErrorCounts, str]:
    """Normalise both texts and count: word errors, character errors, id of the normaliser.

    Words are counted in every language; where a language is written without spaces (ja, zh, th) only the characters mean much.
    """
    normalizer = normalizer_for(setting, language)
    reference, hypothesis = normalize(reference_text, normalizer), normalize(text, normalizer)
    return count_word_errors(reference, hypothesis), count_char_errors(reference, hypothesis), normalizer


def total(counts: Iterable[ErrorCounts]) -> ErrorCounts:
    """The sum of the counts."""
    found = NO_ERRORS
    for each in counts:
        found = ErrorCounts(
            found.substitutions + each.substitutions,
            found.deletions + each.deletions,
            found.insertions + each.insertions,
            found.reference_length + each.reference_length,
        )
    return found


def errors(counts: ErrorCounts) -> int:
    """Edits of all three kinds."""
    return counts.substitutions + counts.deletions + counts.insertions


def error_rate(counts: ErrorCounts) -> float | None:
    """Errors per unit of the reference: above 1 where much was inserted; None where the reference is empty."""
    return errors(counts) / counts.reference_length if counts.reference_length else None
