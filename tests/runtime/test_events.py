"""The event log: whole lines whatever happens, in a file that others may write to as well; nothing it does ends a run."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from events_read import checked, events_in, named
from test_progress import RECEIPT

from pipeline.config import RunConfig
from pipeline.errors import ConfigError, RunBrokenOffError, StoreError, exit_code_of
from pipeline.records import Undone
from pipeline.runtime import watch as watch_module
from pipeline.runtime.events import EVENTS, EventLog, telling
from pipeline.runtime.progress import Goal
from pipeline.runtime.watch import Watch

REPO = Path(__file__).resolve().parents[2]


def test_a_shard_tells_all_that_befell_it(tmp_path: Path) -> None:
    log = EventLog(str(tmp_path / "events.jsonl"), "run-0")
    log.tell_of(replace(RECEIPT, replaced=("decode", "engine"), failure_codes={"poison": 2, "not_audio": 1}))
    log.tell_of(Undone("00001-bb", "publish", "The store is full.", refused=True))
    log.close()
    events = events_in(tmp_path / "events.jsonl")
    assert [event["event"] for event in events] == [
        "worker_died",
        "worker_died",
        "shard_done",
        "poison",
        "shard_failed",
    ]
    assert [event["stage"] for event in events[:2]] == ["decode", "engine"]
    assert (events[2]["decode_s"], events[2]["decode_wait_s"], events[2]["store_s"]) == (20, 20, 1)
    assert events[3]["rows"] == 2
    assert events[4]["refused"] == 1


def test_two_sessions_share_a_file_and_a_torn_line_is_closed_off(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text('{"schema": 1, "ev')  # what a machine that lost its power may leave
    logs = [EventLog(str(file), "run-0") for _ in range(2)]

    def write(log: EventLog) -> None:
        for _ in range(500):
            log.tell_of(replace(RECEIPT, languages={"en": 1800.0}))

    threads = [threading.Thread(target=write, args=(log,)) for log in (*logs, *logs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torn, *lines = file.read_text().splitlines()
    assert torn == '{"schema": 1, "ev'
    events = checked(lines)
    assert len(events) == 2_000
    assert len({event["session"] for event in events}) == 2


def test_a_disk_that_is_full_is_said_once_and_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    log = EventLog("/dev/full", "run-0")
    for _ in range(3):
        log.tell_of(RECEIPT)
    log.close()
    said = capsys.readouterr().err
    assert said.count("no more events can be written") == 1
    assert not log.is_on


def test_a_reader_that_is_gone_changes_neither_run_nor_exit_code() -> None:
    script = """
import sys
from pipeline.runtime.events import EventLog
log = EventLog("-", "run-0")
for _ in range(20_000):
    log.finish(0, 0)
sys.exit(1)
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", script], cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert driver.stdout
    assert driver.stderr
    assert '"finished"' in driver.stdout.readline()
    driver.stdout.close()
    said = driver.stderr.read()
    driver.stderr.close()
    assert driver.wait() == 1
    assert said.count("\n") == 1, said


@pytest.mark.parametrize("target", ["s3://bucket/events.jsonl", "{tmp}/none/events.jsonl", "{tmp}"])
def test_a_place_that_cannot_take_events_is_refused_before_anything_happens(tmp_path: Path, target: str) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.events"):
        EventLog(target.format(tmp=tmp_path), "run-0")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (RunBrokenOffError("Ray broke off."), 3, "Ray broke off."),
        (StoreError("The store is\nfull."), 2, "The store is full."),
        (KeyboardInterrupt(), 3, "interrupted"),
        (ZeroDivisionError("division by zero"), 3, "ZeroDivisionError: division by zero"),
    ],
)
def test_every_end_is_told_with_its_exit_code(tmp_path: Path, error: BaseException, code: int, message: str) -> None:
    file = tmp_path / "events.jsonl"
    config = RunConfig.model_validate(
        {
            "manifest": "m",
            "output": "o",
            "engine": {"model": "https://user:word@host/model"},
            "runtime": {"events": str(file)},
        }
    )
    with pytest.raises(type(error)), telling(config, "run", "run-0", "s3://key:secret@out/run-0"):
        raise error
    started, finished = events_in(file)
    assert started["uri"] == "s3://…@out/run-0"
    assert started["model"] == "https://…@host/model"
    assert (finished["exit_code"], finished["message"]) == (code, message)
    assert exit_code_of(error) == code


def test_progress_and_waiting_are_told_while_no_shard_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(watch_module, "_EVENT_EVERY_S", 0.05)
    log = EventLog(str(tmp_path / "events.jsonl"), "run-0")
    with Watch(Goal(4, 7200), log, open(os.devnull, "w")) as watch:
        watch.add(RECEIPT)
        over = threading.Event()
        over.wait(0.3)
    events = events_in(tmp_path / "events.jsonl")
    assert [event["stage"] for event in named(events, "stage_waiting")] == ["engine"]
    assert len(named(events, "progress")) >= 3
    assert named(events, "progress")[-1]["shards_done"] == 1


def test_the_page_says_what_the_code_does() -> None:
    generated = runpy.run_path(str(REPO / "docs" / "generate_events.py"))["page"]()
    assert (REPO / "docs" / "events.md").read_text("utf-8") == generated, "run `python docs/generate_events.py`"
    assert all(field.meaning for event in EVENTS.values() for field in event.fields.values())
