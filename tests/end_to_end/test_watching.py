"""What one sees of a run while it goes on and from another shell: events as a program reads them, and `quarry status`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import s3fs
from events_read import checked, events_in, named
from running import REPO, fake_settings, quarry, run_folder, table
from servers import S3Endpoint

from pipeline.store.objects import ObjectStore


@pytest.fixture(scope="module")
def finished(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a failed recording, and its events."""
    output = tmp_path_factory.mktemp("watched")
    events = output.parent / "watched.jsonl"
    made = fake_settings(archive / "manifest.jsonl", output / "out", **{"batch.max_audio_s": 40})
    assert quarry("run", "--events", str(events), *made).returncode == 1
    return output / "out", events


def test_the_events_of_a_run_add_up_to_its_tables(finished: tuple[Path, Path]) -> None:
    output, file = finished
    events = events_in(file)
    assert [events[0]["event"], events[1]["event"], events[-1]["event"]] == ["run_started", "plan", "finished"]
    rows, shards, done = table(output), table(output, "shards"), named(events, "shard_done")
    (plan,), (finalize,) = named(events, "plan"), named(events, "finalize")
    assert plan["shards"] == len(done) == shards.num_rows
    assert {event["shard_id"] for event in done} == set(shards["shard_id"].to_pylist())
    for name in ("audio_s", "engine_s", "engine_audio_s", "padded_s", "batches", "queued_s"):
        assert sum(event[name] for event in done) == pytest.approx(sum(shards[name].to_pylist())), name
    assert sum(event["engine_wait_s"] for event in done) == pytest.approx(sum(shards["wait_s"].to_pylist()))
    assert sum(event["decode_cpu_s"] for event in done) == pytest.approx(sum(shards["decode_s"].to_pylist()))
    assert all(event["decode_s"] > 0 and event["store_s"] > 0 for event in done)
    codes = [failure["code"] for failure in rows["failure"].to_pylist() if failure]
    assert [list(event["failure_codes"]) for event in done if event["failure_codes"]] == [codes] == [["bad_header"]]
    assert sum(event["languages"].get("en", 0) for event in done) == pytest.approx(sum(rows["duration_s"].to_pylist()))
    assert (finalize["recordings"], finalize["failed"]) == (rows.num_rows, 1)
    assert named(events, "progress")[-1]["shards_done"] == plan["shards"]
    assert (events[-1]["exit_code"], events[-1]["shards_left"]) == (1, 0)


def test_events_on_standard_output_leave_nothing_else_there(few_manifest: Path, tmp_path: Path) -> None:
    made = fake_settings(few_manifest, tmp_path)
    command = [sys.executable, "-m", "pipeline.cli", "run", "--events", "-", *made]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    events = checked(done.stdout.splitlines())
    assert events[-1]["exit_code"] == done.returncode == 1
    assert "Transcripts lie in" in done.stderr


@pytest.mark.parametrize(
    ("broken", "code", "said"),
    [
        ({"engine.options": "{die_on_call: 3}"}, 3, "The engine died"),
        ({"engine.options": "{no_such: 3}"}, 2, "no_such"),
    ],
)
def test_a_run_that_ends_badly_says_so_in_its_last_event(
    archive: Path, tmp_path: Path, broken: dict[str, Any], code: int, said: str
) -> None:
    file = tmp_path / "events.jsonl"
    made = fake_settings(archive / "manifest.jsonl", tmp_path / "out", **broken)
    assert quarry("run", "--events", str(file), *made).returncode == code
    last = events_in(file)[-1]
    assert (last["event"], last["exit_code"]) == ("finished", code)
    assert said in last["message"]


def test_status_of_a_run_that_stopped_half_way_is_told_from_its_store_alone(archive: Path, tmp_path: Path) -> None:
    made = fake_settings(archive / "manifest.jsonl", tmp_path, **{"engine.options": "{die_on_call: 8}"})
    assert quarry("run", *made).returncode == 3
    status = quarry("status", str(run_folder(tmp_path)))
    assert status.returncode == 3
    assert "last part" in status.stdout
    found = json.loads(quarry("status", "--json", str(run_folder(tmp_path))).stdout)
    done = len(list(tmp_path.rglob("parts/*/*.parquet")))
    assert 3 <= found["shards_done"] == done < found["shards"]
    assert 0 < found["audio_done_s"] < found["audio_s"]
    assert 0 <= found["pace"]["last_part_age_s"] < 60
    assert found["snapshot"] is None


@pytest.mark.slow
def test_a_killed_driver_leaves_whole_lines_and_its_successor_goes_on_in_the_file(
    archive: Path, tmp_path: Path
) -> None:
    file, output = tmp_path / "events.jsonl", tmp_path / "out"
    slow = fake_settings(archive / "manifest.jsonl", output, **{"engine.options": "{seconds_per_audio_s: 0.02}"})
    driver = started(file, slow)
    waited_for(lambda: len(list(output.rglob("parts/*/*.parquet"))) >= 4)
    going = quarry("status", str(run_folder(output)))
    driver.kill()
    driver.wait()
    assert going.returncode == 3
    assert "× real time" in going.stdout
    assert " left" in going.stdout
    killed = events_in(file)
    assert "finished" not in {event["event"] for event in killed}
    found = json.loads(quarry("status", "--json", str(run_folder(output))).stdout)
    assert found["shards_done"] >= len(named(killed, "shard_done")) >= 3
    assert quarry("run", "--events", str(file), *slow).returncode == 1
    events = events_in(file)
    assert len({event["session"] for event in events}) == 2
    assert named(events, "plan")[1]["shards_done"] == found["shards_done"]


@pytest.mark.slow
def test_sigterm_is_an_end_like_any_other(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    slow = {"engine.options": "{seconds_per_audio_s: 0.05}"}
    driver = started(file, fake_settings(archive / "manifest.jsonl", tmp_path / "out", **slow))
    waited_for(lambda: file.exists() and '"shard_done"' in file.read_text())
    os.kill(driver.pid, signal.SIGTERM)
    assert driver.wait(60) == 3
    last = events_in(file)[-1]
    assert (last["event"], last["exit_code"], last["message"]) == ("finished", 3, "interrupted")


def started(events: Path, settings: list[str]) -> subprocess.Popen[bytes]:
    """A driver in a process of its own."""
    command = [sys.executable, "-m", "pipeline.cli", "run", "--events", str(events), *settings]
    return subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def waited_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)


def test_a_run_is_found_by_its_folder_by_every_command_that_looks(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = run_folder(finished[0])
    monkeypatch.chdir(folder.parent)
    status = quarry("status", folder.name)
    assert status.returncode == 0
    assert "failed or partial rows: bad_header 1" in status.stdout
    assert "snapshot 1" in status.stdout
    assert quarry("verify", f"./{folder.name}/").returncode == 0
    report = quarry("report", str(folder))
    assert report.returncode == 0
    assert f"quarry verify {folder}" in report.stdout
    assert "quarry run" not in report.stdout, "a folder does not tell the settings"


def test_looking_by_folder_says_what_is_wrong_in_one_sentence(finished: tuple[Path, Path], tmp_path: Path) -> None:
    nothing = quarry("status", str(tmp_path))
    assert nothing.returncode == 2
    assert "name the run's own folder" in nothing.stderr
    assert quarry("verify", str(finished[0])).returncode == 2
    assert "Traceback" not in nothing.stderr
    typo = quarry("status", str(run_folder(finished[0])), "store.storage_option={}")
    assert typo.returncode == 2
    assert "store.storage_options" in typo.stderr
    with pytest.raises(SystemExit, match="2"):
        quarry("status", "one", "two")


def test_status_writes_nothing_and_opens_no_part(finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run_folder(finished[0])
    before = sorted(path for path in folder.rglob("*"))
    read: list[str] = []
    get = ObjectStore.get

    def noting(self: ObjectStore, key: str) -> bytes:
        read.append(key)
        return get(self, key)

    monkeypatch.setattr(ObjectStore, "get", noting)
    assert quarry("status", str(folder)).returncode == 0
    assert sorted(path for path in folder.rglob("*")) == before
    assert read
    assert not [key for key in read if key.startswith("parts/")]


def test_status_of_a_run_on_s3_goes_by_the_stores_clock(short_manifest: Path, moto_endpoint: S3Endpoint) -> None:
    options = json.dumps(moto_endpoint.storage_options())
    s3fs.S3FileSystem(**moto_endpoint.storage_options()).mkdir("watched")
    made = fake_settings(short_manifest, "s3://watched/out", **{"store.storage_options": options})
    assert quarry("plan", *made).returncode == 0
    listed = quarry("status", *made)
    assert listed.returncode == 3
    uri = f"s3://watched/out/{listed.stdout.partition(':')[0]}"
    assert quarry("run", *made).returncode == 1
    found = json.loads(quarry("status", uri, "--json", f"store.storage_options={options}").stdout)
    assert found["shards_done"] == found["shards"] >= 2
    assert 0 <= found["pace"]["last_part_age_s"] < 60
