"""The progress line: one line, true numbers, repainted on a terminal only."""

from __future__ import annotations

from io import StringIO

import pytest

from pipeline.records import Receipt, Undone
from pipeline.runtime.progress import ProgressLine, Tally, clock, progress_text

RECEIPT = Receipt(
    "00000-aa",
    "won",
    rows=10,
    ok=7,
    partial=1,
    failed=2,
    audio_s=1800,
    decode_s=1,
    engine_s=30,
    wait_s=10,
    padded_s=2000,
    draft_s=0,
)


def test_the_line_adds_receipts_up() -> None:
    text = progress_text(Tally().plus(RECEIPT), shards=4, audio_s=7200, elapsed_s=60)
    assert (
        text
        == "1/4 shards · 0.50 of 2.00 h · 30.0× real time · engine busy 75% · 1 partial · 2 failed · 3 min 00 s left"
    )


def test_shards_that_were_not_done_are_said() -> None:
    tally = Tally().plus(Undone("00000-aa", "publish", "full"))
    assert "1 shards not done" in progress_text(tally, 4, 7200, 60)
    assert tally.shards == 0


@pytest.mark.parametrize(("painted", "expected"), [(True, "\r"), (False, "\n")])
def test_a_terminal_is_repainted_and_a_log_is_not(painted: bool, expected: str) -> None:
    class Stream(StringIO):
        def isatty(self) -> bool:
            return painted

    stream = Stream()
    line = ProgressLine(1, 1800, stream)
    line.add(RECEIPT)
    line.close()
    assert expected in stream.getvalue()
    assert stream.getvalue().count("1/1 shards") == 1


@pytest.mark.parametrize(("seconds", "text"), [(14.2, "14 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (0, "0 s")])
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert clock(seconds) == text
