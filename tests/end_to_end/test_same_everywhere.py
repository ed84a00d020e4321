"""The same transcripts from one process, from Ray with one, two and three workers, and after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import REPO, fake_settings, quarry, run_folder, table, texts

from pipeline.config.file import load_config
from pipeline.prepare import prepare
from pipeline.run import execute


@pytest.fixture(scope="module")
def local_output(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("local")
    done = quarry("run", *fake_settings(archive / "manifest.jsonl", output))
    assert done.returncode == 1, done.stderr
    return output


def test_a_local_run_decides_every_recording(local_output: Path, archive: Path) -> None:
    rows = {row["id"]: row for row in table(local_output).to_pylist()}
    assert len(rows) == len((archive / "manifest.jsonl").read_text().splitlines())
    assert {name for name, row in rows.items() if row["status"] == "failed"} == {"upload-cut-off"}
    assert rows["silence"]["text"] == ""
    assert rows["silence"]["status"] == "ok"
    assert all(row["text"] for name, row in rows.items() if name not in ("silence", "upload-cut-off"))


def test_windows_of_a_long_recording_are_joined_without_a_gap(local_output: Path) -> None:
    (row,) = [row for row in table(local_output).to_pylist() if row["id"] == "switchboard"]
    pieces = [(s["start_s"], s["end_s"]) for s in row["segments"]] + [(s["start_s"], s["end_s"]) for s in row["spans"]]
    reached = 0.0
    for start, end in sorted(pieces):
        assert start == pytest.approx(reached, abs=1e-3)
        reached = end
    assert reached == pytest.approx(row["duration_s"], abs=1e-3)
    assert row["duration_s"] > 600


@pytest.mark.parametrize("engine_workers", [2, *(pytest.param(count, marks=pytest.mark.slow) for count in (1, 3))])
@pytest.mark.usefixtures("ray_cluster")
def test_ray_gives_the_same(local_output: Path, archive: Path, tmp_path: Path, engine_workers: int) -> None:
    extra = {
        "plan.probe_workers": 4,  # one in the other run: the plan is the same
        "runtime.kind": "ray",
        "runtime.engine_workers": engine_workers,
        "runtime.decode_workers": engine_workers,
        "runtime.engine_cpus": 0.2,
    }
    settings = fake_settings(archive / "manifest.jsonl", tmp_path, **extra)
    outcome = execute(prepare(load_config(None, settings)))
    assert outcome.exit_code == 1
    assert texts(tmp_path) == texts(local_output)


def test_a_killed_driver_is_resumed_by_the_same_command(local_output: Path, archive: Path, tmp_path: Path) -> None:
    settings = fake_settings(archive / "manifest.jsonl", tmp_path, **{"engine.options": "{seconds_per_audio_s: 0.004}"})
    command = [sys.executable, "-m", "pipeline.cli", "run", *settings]
    driver = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _wait_for_parts(tmp_path, driver, at_least=2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = {path: path.stat().st_mtime_ns for path in run_folder(tmp_path).rglob("parts/*/*.parquet")}
    assert not list(run_folder(tmp_path).rglob("snapshots/*"))
    again = quarry("run", *settings)
    assert again.returncode == 1, again.stderr
    assert texts(tmp_path) == texts(local_output)
    assert all(path.stat().st_mtime_ns == written for path, written in before.items()), "a finished part was redone"
    assert quarry("verify", *settings).returncode == 0


def test_a_second_run_redoes_nothing_and_says_so(local_output: Path, archive: Path) -> None:
    began = time.monotonic()
    again = quarry("run", *fake_settings(archive / "manifest.jsonl", local_output))
    assert again.returncode == 1
    assert "Nothing to do" in again.stderr
    assert time.monotonic() - began < 10
    assert len(list(run_folder(local_output).glob("snapshots/*.json"))) == 1


def _wait_for_parts(output: Path, driver: subprocess.Popen[bytes], at_least: int) -> None:
    deadline = time.monotonic() + 120
    while len(list(output.rglob("parts/*/*.parquet"))) < at_least:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "no parts appeared"
        time.sleep(0.02)
