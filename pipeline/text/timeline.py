"""The timeline audit: every second of a recording is transcribed, declared non-speech, or declared failed. Exactly once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

TOLERANCE_S = 0.02  # engines round their times to frames of 20 ms


@dataclass(frozen=True, slots=True)
class TimelineProblem:
    """A stretch that nothing accounts for, that two pieces claim, or that a piece claims outside the recording."""

    start_s: float
    end_s: float
    kind: Literal["gap", "overlap", "outside"]


def audit(
    start_s: float, end_s: float, pieces: Iterable[tuple[float, float]], tolerance_s: float = TOLERANCE_S
) -> list[TimelineProblem]:
    """Compare pieces of time, in any order, with the [start_s, end_s) they should tile; problems in order of time.

    What is not longer than `tolerance_s` is no problem. A piece that ends where it starts, or before, accounts for nothing.
    """
    found: list[TimelineProblem] = []

    def note(kind: Literal["gap", "overlap", "outside"], first_s: float, last_s: float) -> None:
        if last_s - first_s > tolerance_s:
            found.append(TimelineProblem(first_s, last_s, kind))

    reached_s = start_s
    for piece_start_s, piece_end_s in sorted(piece for piece in pieces if piece[0] < piece[1]):
        note("outside", piece_start_s, min(piece_end_s, start_s))
        note("outside", max(piece_start_s, end_s), piece_end_s)
        note("gap", reached_s, min(piece_start_s, end_s))
        note("overlap", max(piece_start_s, start_s), min(piece_end_s, reached_s, end_s))
        reached_s = max(reached_s, piece_end_s)
    note("gap", reached_s, end_s)
    return found
