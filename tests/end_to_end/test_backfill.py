"""`quarry backfill`: the same command every night, twice at once, killed, over an archive that grows."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from counted import count_into, counts
from running import REPO, Done, fake_settings, quarry

from pipeline import read_runs
from pipeline.backfill import run as nights
from pipeline.backfill.partitions import period
from pipeline.config import StoreConfig
from pipeline.errors import RunError
from pipeline.store.lease import Lease, take_lease
from pipeline.store.objects import ObjectStore

SCRIPT = Path(__file__).with_name("counted.py")
NIGHTS = ("2026-11-18", "2026-11-19", "2026-11-20")


def speech(path: Path, number: int, seconds: float = 2.0) -> Path:
    """A recording like no other: noise of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).normal(0, 0.1, int(seconds * 16_000))
    soundfile.write(path, noise, 16_000)
    return path


def settings(archive: Path, output: Path, *more: str, **extra: Any) -> list[str]:
    given = {
        "chunk.vad": "none",
        "plan.shard_s": 4,
        "plan.window_s": 31,
        "backfill.min_age_s": 0,
        "backfill.lease_s": 1,
        "backfill.since": NIGHTS[0],
        "backfill.until": NIGHTS[-1],
        **extra,
    }
    manifest = given.pop("manifest", f"{archive}/{{date:%Y/%m/%d}}/")
    return [*fake_settings(manifest, output, **given), *more]


def day_folder(archive: Path, day: str) -> Path:
    return archive / day.replace("-", "/")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two days of three recordings each."""
    for number in range(6):
        speech(day_folder(tmp_path / "audio", NIGHTS[number // 3]) / f"{number}.wav", number)
    return tmp_path / "audio"


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What this process hears and opens is noted here."""
    count_into(str(tmp_path / "counted.log"), monkeypatch.setattr)
    return tmp_path / "counted.log"


def start(log: Path, arguments: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(log), "backfill", *arguments],
        cwd=REPO,
        env={**os.environ, "PYTHONPATH": str(REPO)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> Done:
    stdout, stderr = process.communicate(timeout=120)
    return Done(process.returncode, stdout, stderr)


def backfill_folder(output: Path) -> Path:
    (folder,) = (output / "backfill").iterdir()
    return folder


def logs(output: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted((backfill_folder(output) / "log").iterdir())]


def ids(output: Path) -> list[tuple[str, str]]:
    rows = read_runs(output).arrow(["partition", "id"]).to_pylist()
    return sorted((row["partition"], row["id"]) for row in rows)


def test_started_twice_at_once_each_recording_is_heard_once(archive: Path, tmp_path: Path) -> None:
    slow = settings(archive, tmp_path / "out", **{"engine.options": "{batch_overhead_s: 0.3}", "backfill.lease_s": 30})
    both = [ended(process) for process in [start(tmp_path / "log", slow) for _ in range(2)]]
    assert [done.returncode for done in both] == [0, 0], both
    heard = counts(tmp_path / "log", "heard")
    assert len(heard) == 6
    assert set(heard.values()) == {1}
    (turned_away,) = [done for done in both if "Another backfill" in done.stdout]
    assert len(turned_away.stdout.splitlines()) == 1
    assert turned_away.stderr == ""
    assert len(ids(tmp_path / "out")) == 6
    assert len(logs(tmp_path / "out")) == 1


def test_three_nights_of_a_growing_prefix_touch_only_what_is_new(archive: Path, tmp_path: Path, log: Path) -> None:
    command = settings(archive, tmp_path / "out")
    night = quarry("backfill", *command)
    assert night.returncode == 0, night.stderr
    assert f"{NIGHTS[0]}: 3 new · 3 ok · 0.00 h in" in night.stderr
    assert len(counts(log, "heard")) == 6
    log.unlink()

    late = speech(day_folder(archive, NIGHTS[1]) / "late.wav", 10)
    today = [speech(day_folder(archive, NIGHTS[2]) / f"{name}.wav", 20 + name) for name in range(2)]
    night = quarry("backfill", *command)
    assert f"{NIGHTS[1]}: 1 new · 4 ok" in night.stderr
    assert "2 partitions worked on" in night.stdout
    assert "1 unchanged" in night.stdout
    assert set(counts(log, "opened")) == {str(path) for path in (late, *today)}, "old audio was opened"
    assert sorted(counts(log, "heard").values()) == [1, 1, 1]
    log.unlink()

    night = quarry("backfill", *command)
    assert "0 partitions worked on" in night.stdout
    assert "3 unchanged" in night.stdout
    assert not log.exists(), "a quiet night opened audio"
    assert len(ids(tmp_path / "out")) == 9
    assert [len(one["partitions"]) for one in logs(tmp_path / "out")] == [2, 2, 0]


def test_what_is_killed_is_taken_over_and_resumed(archive: Path, tmp_path: Path, log: Path) -> None:
    slow = settings(archive, tmp_path / "out", **{"engine.options": "{batch_overhead_s: 0.4}"})
    killed = start(log, slow)
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "out").rglob("parts/*/*.parquet"))) < 2:
        assert killed.poll() is None, killed.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.kill()
    killed.communicate()
    command = slow
    at_once = quarry("backfill", *command)
    assert "Another backfill" in at_once.stdout, "a lease that has not run out was taken"
    later = quarry("backfill", *command, "backfill.wait_s=20")
    assert later.returncode == 0, later.stderr
    assert len(ids(tmp_path / "out")) == len(set(ids(tmp_path / "out"))) == 6
    twice = [count for count in counts(log, "heard").values() if count > 1]
    assert len(twice) <= 2, "more than the shard that was lost was heard again"


@pytest.mark.slow
def test_a_driver_that_is_stopped_lets_go_and_one_that_slept_does_no_harm(archive: Path, tmp_path: Path) -> None:
    command = settings(archive, tmp_path / "out", **{"engine.options": "{batch_overhead_s: 1.0}"})
    asleep = start(tmp_path / "log", command)
    while not list((tmp_path / "out").rglob("parts/*/*.parquet")):
        assert asleep.poll() is None, asleep.communicate()
        time.sleep(0.05)
    asleep.send_signal(signal.SIGSTOP)
    successor = start(tmp_path / "log", [*command, "backfill.wait_s=30"])
    while len(list((tmp_path / "out").rglob("parts/*/*.parquet"))) < 2:
        assert successor.poll() is None, successor.communicate()
        time.sleep(0.05)
    asleep.send_signal(signal.SIGCONT)
    woken = ended(asleep)
    assert woken.returncode == 3, woken
    assert "another backfill has taken over" in woken.stdout
    successor.terminate()
    stopped = ended(successor)
    assert stopped.returncode == 3, stopped
    last = quarry("backfill", *command)
    assert last.returncode == 0, last.stderr + last.stdout
    assert len(ids(tmp_path / "out")) == len(set(ids(tmp_path / "out"))) == 6


def test_a_broken_partition_stops_no_other_and_failures_are_tried_again(tmp_path: Path, log: Path) -> None:
    lists, audio = tmp_path / "lists", tmp_path / "audio"
    lists.mkdir()
    (lists / "a.jsonl").write_text("not json\n")
    (lists / "b.jsonl").write_text(json.dumps({"audio_filepath": str(audio / "gone.wav"), "id": "gone"}) + "\n")
    (lists / "c.jsonl").write_text(json.dumps({"audio_filepath": str(speech(audio / "c.wav", 1)), "id": "c"}) + "\n")
    extra = {"manifest": f"{lists}/*.jsonl", "source.roots": f"[{audio}]", "backfill.retry_failed": 2}
    command = settings(lists, tmp_path / "out", **extra)
    night = quarry("backfill", *command)
    assert night.returncode == 2
    lines = [line for line in night.stderr.splitlines() if "exit code" in line]
    assert [line[:2] + line.partition("exit code ")[2][:1] for line in lines] == ["a:2", "b:1", "c:0"]
    assert "line 1" in lines[0]
    assert "not done: a;" in night.stdout.lower()

    speech(audio / "gone.wav", 2)
    (lists / "a.jsonl").write_text(json.dumps({"audio_filepath": str(speech(audio / "a.wav", 3)), "id": "a"}) + "\n")
    night = quarry("backfill", *command)
    assert night.returncode == 0, night.stderr
    assert "b: 0 new · 1 ok" in night.stderr
    assert "failures tried again" in night.stderr
    assert len(ids(tmp_path / "out")) == 3
    assert set(counts(log, "heard").values()) == {1}


@pytest.mark.slow
def test_failures_are_tried_again_as_often_as_asked(tmp_path: Path, log: Path) -> None:
    speech(tmp_path / "audio" / "good.wav", 1)
    (tmp_path / "audio" / "bad.wav").write_bytes(b"RIFF, and nothing more")
    command = settings(tmp_path, tmp_path / "out", manifest=f"{tmp_path}/audio/", **{"backfill.retry_failed": 1})
    nights = []
    for _ in range(3):
        log.unlink(missing_ok=True)
        code = quarry("backfill", *command).returncode
        nights.append((code, len(counts(log, "opened"))))
    assert [code for code, _ in nights] == [1, 1, 0]
    assert nights[1][1] == 1, "only what had failed is opened again"
    assert nights[2][1] == 0


def test_one_manifest_by_a_column_is_read_once_and_then_passed_over(tmp_path: Path, log: Path) -> None:
    rows = [
        {"id": f"r{i}", "audio_filepath": str(speech(tmp_path / f"{i}.wav", i)), "day": NIGHTS[i // 2]}
        for i in range(4)
    ]
    manifest = tmp_path / "all.jsonl"

    def write(found: list[dict[str, str]]) -> None:
        manifest.write_text("".join(json.dumps(row) + "\n" for row in found))

    write(rows)
    command = settings(tmp_path, tmp_path / "out", manifest=manifest, **{"backfill.column": "day"})
    night = quarry("backfill", *command)
    assert night.returncode == 0, night.stderr
    assert ids(tmp_path / "out") == [(row["day"], row["id"]) for row in rows]
    assert "1 unchanged" in quarry("backfill", *command).stdout, "the manifest is the one thing that is looked at"
    log.unlink()
    new = {"id": "new", "audio_filepath": str(speech(tmp_path / "new.wav", 9)), "day": NIGHTS[2]}
    write([*rows, new])
    grown = quarry("backfill", *command)
    assert "1 partition worked on" in grown.stdout
    assert "2 unchanged" in grown.stdout
    assert set(counts(log, "opened")) == {str(tmp_path / "new.wav")}


def test_rows_of_a_coming_day_are_done_on_their_day_though_the_manifest_stays_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"audio_filepath": str(speech(tmp_path / f"{i}.wav", i)), "day": NIGHTS[i]} for i in range(2)]
    manifest = tmp_path / "all.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = settings(tmp_path, tmp_path / "out", manifest=manifest, **{"backfill.column": "day"})
    command = [one for one in command if not one.startswith("backfill.until")]
    for night in NIGHTS:
        monkeypatch.setattr(nights, "period", partial(period, today=date.fromisoformat(night)))
        said = quarry("backfill", *command)
        assert said.returncode == 0, said.stderr
        assert ("1 partition worked on" in said.stdout) == (night in NIGHTS[:2])
    assert [day for day, _ in ids(tmp_path / "out")] == list(NIGHTS[:2])


@pytest.mark.slow
def test_limits_leave_the_rest_for_the_next_night(archive: Path, tmp_path: Path) -> None:
    command = settings(archive, tmp_path / "out")
    first = quarry("backfill", *command, "--max-partitions", "1", "backfill.order=newest")
    assert first.returncode == 0, first.stderr
    assert {partition for partition, _ in ids(tmp_path / "out")} == {NIGHTS[1]}
    assert "backfill.max_partitions is reached" in first.stdout
    speech(day_folder(archive, NIGHTS[1]) / "more.wav", 50)
    second = quarry("backfill", *command, "backfill.max_audio_h=0.002")  # 7.2 s: the first's 6 s, and no more
    assert "backfill.max_audio_h is reached" in second.stdout
    assert len(ids(tmp_path / "out")) == 6
    slow = "engine.options={batch_overhead_s: 5}"
    speech(day_folder(archive, NIGHTS[2]) / "long.wav", 51)
    other = quarry("backfill", *command, slow, "backfill.max_wall_s=2", f"output={tmp_path / 'other'}")
    assert other.returncode == 0, other.stdout
    assert "backfill.max_wall_s is over" in other.stdout


def test_audio_that_is_still_uploaded_waits(archive: Path, tmp_path: Path) -> None:
    command = settings(archive, tmp_path / "out", **{"backfill.min_age_s": 3600})
    night = quarry("backfill", *command)
    assert night.returncode == 0, night.stderr
    assert "2 may still be written, 1 not there" in night.stdout


@pytest.mark.slow
def test_audio_that_was_removed_keeps_its_transcript(archive: Path, tmp_path: Path) -> None:
    command = settings(archive, tmp_path / "out")
    assert quarry("backfill", *command).returncode == 0
    (day_folder(archive, NIGHTS[0]) / "0.wav").unlink()
    night = quarry("backfill", *command)
    assert night.returncode == 0, night.stderr
    assert len(ids(tmp_path / "out")) == 6


def test_status_of_an_output_tells_who_is_at_work_and_what_the_last_night_did(archive: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    speech(day_folder(archive, NIGHTS[1]) / "bad.wav", 9).write_bytes(b"RIFF")
    command = settings(archive, output, **{"backfill.max_partitions": 1})
    assert quarry("status", str(output)).returncode == 2, "there is nothing yet"
    assert quarry("backfill", *command).returncode == 0
    assert quarry("backfill", *command).returncode == 1
    before = sorted(output.rglob("*"))
    looked = quarry("status", str(output))
    assert looked.returncode == 0, looked.stderr
    (folder,) = (output / "backfill").iterdir()
    night = json.loads((folder / "log" / "000002.json").read_text())
    assert looked.stdout.splitlines()[:4] == [
        f"backfill {folder.name}: 2 of 2 partitions done, 1 with failed or partial recordings.",
        "  nobody is at work",
        f"  last night: {night['started_at']} to {night['ended_at']}, exit code 1",
        "    1 partition worked on, 0.00 h of audio; passed over: 1 not there, 1 unchanged.",
    ]
    assert quarry("status", *command).stdout == looked.stdout, "by its settings too"

    lease = take_lease(ObjectStore(str(folder), StoreConfig()), lease_s=30)
    assert isinstance(lease, Lease)
    assert "  at work for 0 s: " in quarry("status", str(output)).stdout
    (found,) = json.loads(quarry("status", "--json", str(output)).stdout)["backfills"]
    assert (found["at_work"]["is_gone"], found["at_work"]["lease_s"]) == (False, 30)
    assert os.uname().nodename in found["at_work"]["owner"]
    claim = folder / f"lease/{lease.number:06d}.json"
    os.utime(claim, (time.time() - 300,) * 2)
    assert "5 min 00 s: " in (silent := quarry("status", str(output)).stdout)
    assert "it has ended without a word, and the next backfill takes over" in silent
    beat = folder / f"lease/{lease.number:06d}/beat-000000"
    beat.parent.mkdir()
    beat.touch()
    assert "last sign of life 0 s ago\n" in quarry("status", str(output)).stdout
    claim.write_text(json.dumps({"owner": "\x1b[2Jevil", "lease_s": 30}))
    assert "\x1b" not in quarry("status", str(output)).stdout
    beat.unlink()
    beat.parent.rmdir()
    lease.release()
    made = [path for path in sorted(output.rglob("*")) if path not in before]
    assert made == [
        claim,
        folder / f"lease/{lease.number + 1:06d}.json",
    ]


def test_slips_of_the_pen_are_one_sentence(archive: Path, tmp_path: Path) -> None:
    nothing = quarry("backfill", *settings(tmp_path / "adio", tmp_path / "out"))
    assert nothing.returncode == 2
    assert nothing.stderr.startswith("quarry: There is no audio and no manifest at")
    endless = [one for one in settings(archive, tmp_path / "out") if "since" not in one]
    assert "give --since" in quarry("backfill", *endless).stderr
    with pytest.raises(RunError, match="There is no backfill"):
        read_runs(tmp_path / "audio")


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_a_night_on_ray_is_a_night_in_one_process(archive: Path, tmp_path: Path) -> None:
    night = quarry("backfill", *settings(archive, tmp_path / "ray", **{"runtime.kind": "ray", "backfill.lease_s": 60}))
    assert night.returncode == 0, night.stderr
    assert quarry("backfill", *settings(archive, tmp_path / "local")).returncode == 0
    columns = ["partition", "id", "text"]
    both = [read_runs(tmp_path / where).arrow(columns).sort_by("id") for where in ("ray", "local")]
    assert both[0].equals(both[1])
    assert both[0].num_rows == 6
    assert "2 unchanged" in quarry("backfill", *settings(archive, tmp_path / "ray", **{"runtime.kind": "ray"})).stdout
