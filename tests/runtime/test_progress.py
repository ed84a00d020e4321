"""The progress line: one line, true numbers, rewritten on a terminal only."""

from __future__ import annotations

import os
from dataclasses import replace
from io import StringIO

import pytest

from pipeline.records import Receipt, StepTime, Undone
from pipeline.runtime import progress as progress_module
from pipeline.runtime.events import NO_EVENTS
from pipeline.runtime.progress import Course, Goal, ProgressLine, clock, progress_text
from pipeline.runtime.watch import Watch

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
    decoding=StepTime(20, 20),
    publishing=StepTime(1, 39),
)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def course(goal: Goal, every_s: float, receipts: list[Receipt | Undone]) -> Course:
    """Receipts that come one after the other."""
    time = Clock()
    found = Course(goal, time)
    for receipt in receipts:
        time.now_s += every_s
        found.add(receipt)
    return found


def test_the_line_adds_receipts_up() -> None:
    goal = Goal(shards=8, audio_s=14_400, shards_before=2, audio_before_s=3_600, usd_per_hour=6.0)
    text = progress_text(course(goal, 60, [RECEIPT]).progress())
    assert text == (
        "1.50 of 4.00 h (38%) · 30.0× real time, mean 30.0× · 5 min 00 s left · $0.10 so far · 2 failed · 1 partial · "
        "waiting for engine (75% busy) · 3/8 shards"
    )


def test_shards_without_audio_are_shards() -> None:
    failed = replace(RECEIPT, ok=0, partial=0, failed=10, audio_s=0)
    text = progress_text(course(Goal(2, 100), 3, [failed]).progress())
    assert text.startswith("0.00 of 0.03 h (0%) · no audio yet after 3 s · 10 failed · ")


def test_now_is_the_last_minute_and_the_mean_is_of_all() -> None:
    time = Clock()
    found = Course(Goal(1_000, 1_800_000), time)
    time.now_s += 600  # starting up, loading weights
    for _ in range(100):
        time.now_s += 3
        found.add(RECEIPT)
    now = found.progress()
    assert now.rtfx_now == pytest.approx(600)
    assert now.rtfx_mean == pytest.approx(200)
    assert now.eta_s == pytest.approx(900 * 1800 / 600)
    assert len(found._marks) < 70, "it remembers a minute, not the run"


def test_where_shards_are_slow_now_is_the_last_few_of_them() -> None:
    found = course(Goal(100, 180_000), 600, [RECEIPT] * 20)
    assert found.progress().rtfx_now == pytest.approx(3.0)
    assert len(found._marks) <= 6


@pytest.mark.parametrize(
    ("decode", "engine", "store", "stage"),
    [
        ((90, 10), (30, 70), (1, 99), "decode"),
        ((30, 70), (95, 5), (1, 99), "engine"),
        ((30, 70), (30, 70), (80, 20), "store"),
        ((30, 70), (30, 70), (30, 70), None),
    ],
)
def test_the_stage_that_never_rests_is_the_one_the_others_wait_for(
    decode: tuple[float, float], engine: tuple[float, float], store: tuple[float, float], stage: str | None
) -> None:
    receipt = replace(
        RECEIPT, decoding=StepTime(*decode), engine_s=engine[0], wait_s=engine[1], publishing=StepTime(*store)
    )
    found = course(Goal(4, 7200), 60, [receipt])
    assert found.progress().waiting_for == stage
    assert ("waiting for" in progress_text(found.progress())) == (stage is not None)


def test_a_decoder_that_is_ahead_is_not_what_the_others_wait_for() -> None:
    """Its rest comes after its last shard, and is not measured: of the two, the one with the queue before it is the slow one."""
    ahead = replace(RECEIPT, decoding=StepTime(99, 1), engine_s=90, wait_s=10, queued_s=40)
    assert course(Goal(4, 7200), 60, [ahead]).progress().waiting_for == "engine"
    behind = replace(RECEIPT, decoding=StepTime(99, 1), engine_s=90, wait_s=10, queued_s=0)
    assert course(Goal(4, 7200), 60, [behind]).progress().waiting_for == "decode"


def test_what_happened_long_ago_does_not_say_who_waits_now() -> None:
    slow_decoding = replace(RECEIPT, decoding=StepTime(99, 1), engine_s=1, wait_s=99)
    slow_engine = replace(RECEIPT, decoding=StepTime(1, 99), engine_s=99, wait_s=1)
    found = course(Goal(400, 720_000), 10, [*[slow_decoding] * 100, *[slow_engine] * 20])
    assert found.progress().waiting_for == "engine"


def test_shards_that_were_not_done_are_said() -> None:
    found = course(Goal(4, 7200), 60, [RECEIPT, Undone("00000-aa", "publish", "full")])
    assert "1 shards not done" in progress_text(found.progress())
    assert found.tally.shards == 1


def test_before_the_first_shard_the_line_says_how_long_nothing_came() -> None:
    time = Clock()
    found = Course(Goal(4, 7200), time)
    time.now_s += 125
    assert progress_text(found.progress()) == "0.00 of 2.00 h (0%) · no shard yet after 2 min 05 s · 0/4 shards"


def test_a_log_gets_a_plain_line_now_and_then() -> None:
    stream, time = StringIO(), Clock()
    found = Course(Goal(1_000, 1_800_000), time)
    line = ProgressLine(found, stream)
    for _ in range(60):
        time.now_s += 1
        found.add(RECEIPT)
        line.show()
    assert stream.getvalue().count("\n") == 6
    assert "\r" not in stream.getvalue()
    for _ in range(120):  # a shard that takes two minutes
        time.now_s += 1
        line.show()
    assert stream.getvalue().count("\n") == 8
    line.close()
    assert stream.getvalue().endswith("60/1000 shards\n")


def test_a_terminal_sees_one_line_that_never_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_module.shutil, "get_terminal_size", lambda: os.terminal_size((40, 24)))
    stream, time = Terminal(), Clock()
    found = Course(Goal(10, 18_000), time)
    line = ProgressLine(found, stream)
    for _ in range(10):
        time.now_s += 1
        found.add(RECEIPT)
        line.show()
    line.close()
    *painted, end = stream.getvalue().split("\r\x1b[2K")[1:]
    assert len(painted) == 10
    assert end.count("\n") == 1
    assert all(len(text.rstrip("\n")) <= 39 and "\n" not in text for text in painted)


def test_a_terminal_that_is_gone_ends_nothing() -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    with Watch(Goal(2, 3600), NO_EVENTS, Gone()) as watch:
        watch.add(RECEIPT)
        watch.add(RECEIPT)
    assert watch.tally.shards == 2


def test_why_the_first_shard_was_left_is_said_at_once_and_once() -> None:
    stream = StringIO()
    with Watch(Goal(3, 3600), NO_EVENTS, stream) as watch:
        watch.add(Undone("00000-aa", "fetch", "The store did not answer."))
        assert "shard 00000-aa could not be finished (fetch): The store did not answer.\n" in stream.getvalue()
        watch.add(Undone("00001-bb", "fetch", "The store did not answer."))
    assert stream.getvalue().count("could not be finished") == 1


def test_the_stream_is_the_one_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with Watch(Goal(1, 1800), NO_EVENTS) as watch:
        watch.add(RECEIPT)
    assert "1/1 shards" in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(14.2, "14 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (0, "0 s")])
def test_times_are_written_for_people(seconds: float, text: str) -> None:
    assert clock(seconds) == text
