"""Cutting a transcript that is longer than a model's context, at ends of sentences and segments. Pure.

The parts follow each other without a gap: joined, they are the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

# A full stop, whatever closes the sentence behind it, and the space after that; ideographic ones need no space.
_SENTENCE_END = re.compile(r"[.!?…؟।]+[\"'”’)\]»]*\s+|[。！？]+[」』）]*\s*|\n+")

Count = Callable[[str], int]


def borders(text: str, segments: Sequence[str] = ()) -> list[int]:
    """Where the text may be cut: behind sentences, and where its segments meet. Offsets inside the text, rising."""
    found = {match.end() for match in _SENTENCE_END.finditer(text)}
    at = 0
    for segment in segments:
        start = text.find(segment.strip(), at)
        if start < 0:  # the text was put together in another way
            continue
        found.add(start)
        at = start + len(segment.strip())
    return sorted(offset for offset in found if 0 < offset < len(text))


def cut(text: str, limit: int, count: Count, segments: Sequence[str] = ()) -> list[str]:
    """Parts of about the same size with at most `limit` tokens each, as `count` counts them; the whole text where it fits.

    A sentence that is too long is cut between words, a word that is too long inside. Raises ValueError for a limit under 1.
    """
    if limit < 1:
        raise ValueError(f"no text can be cut to {limit} tokens")
    total = count(text)
    if total <= limit:
        return [text]
    edges = [0, *borders(text, segments), len(text)]
    units = [unit for start, end in pairwise(edges) for unit in _fitting(text[start:end], limit, count)]
    even = total / -(-total // limit)
    parts = [""]
    size = 0
    for unit in units:
        more = count(unit)
        if parts[-1] and (size >= even or size + more > limit):
            parts.append("")
            size = 0
        parts[-1] += unit
        size += more
    # Tokens of neighbours can come out more than the sum of theirs where a cut falls inside a word.
    return [piece for part in parts for piece in _fitting(part, limit, count)]


def _fitting(unit: str, limit: int, count: Count) -> list[str]:
    """A stretch in pieces that fit: halved between words, or inside one."""
    if len(unit) == 1 or count(unit) <= limit:
        return [unit]
    middle = len(unit) // 2
    spaces = [match.end() for match in re.finditer(r"\s+", unit) if 0 < match.end() < len(unit)]
    at = min(spaces, key=lambda offset: abs(offset - middle), default=middle)
    return [*_fitting(unit[:at], limit, count), *_fitting(unit[at:], limit, count)]
