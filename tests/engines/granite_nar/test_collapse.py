"""Collapsing packed labels, against a loop over one clip at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.engines.granite_nar.collapse import collapse

Label = tuple[int, float]

# Few labels, so that repeats and blanks are common; posteriors are any.
clips = st.lists(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1, width=32)), max_size=8), max_size=6)


def collapse_one(clip: list[Label], blank: int) -> list[Label]:
    found: list[Label] = []
    last = None
    for label, probability in clip:
        if label == last and label != blank:
            found[-1] = label, max(found[-1][1], probability)
        elif label != blank:
            found.append((label, probability))
        last = label
    return found


@given(clips, st.integers(0, 3), st.integers(0, 1))
@example([], 0, 0)
@example([[], [], []], 3, 0)
@example([[(1, 0.5)], [(1, 0.25)]], 3, 0)  # the same label at a clip's end and at the next one's beginning
@example([[(1, 0.5)], [], [(1, 0.25)]], 3, 1)
@example([[(1, 0.5), (3, 1.0), (1, 0.25)]], 3, 0)  # a blank between equals keeps both
@example([[(3, 1.0), (3, 1.0)], [(2, 0.5), (2, 0.75)]], 3, 0)
def test_every_clip_collapses_on_its_own(rows: list[list[Label]], blank: int, shift: int) -> None:
    packed = [label for row in rows for label in row]
    tokens = collapse(
        np.array([label for label, _ in packed], np.int64),
        np.array([probability for _, probability in packed], np.float32),
        np.array([len(row) for row in rows], np.int64),
        blank=blank,
        shift=shift,
    )
    expected = [collapse_one(row, blank) for row in rows]
    assert [ids.tolist() for ids in tokens.split()] == [[label - shift for label, _ in row] for row in expected]
    assert tokens.counts.tolist() == [len(row) for row in expected]
    probabilities = [[probability for _, probability in row] for row in expected]
    assert [part.tolist() for part in tokens.split_probabilities()] == probabilities
