"""A command that is told to end, by one signal or by several, and one that nobody listens to any more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from running import REPO, fake_settings, quarry, run_folder

from pipeline.cli import _stoppable
from pipeline.runtime.progress import say


def _told_twice(recorded: list[str]) -> None:
    with _stoppable():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            recorded.append("session")


def test_the_same_signal_again_does_not_cut_the_recording_short() -> None:
    recorded: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        _told_twice(recorded)
    assert recorded


def test_lines_that_nobody_reads_end_nothing() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as gone:
        say("a line", gone)
        say("another", gone)
    say("behind the end", gone)
    full = open("/dev/full", "w")  # noqa: SIM115  it cannot be closed in order
    say("a full disk", full)
    with suppress(OSError):
        full.close()


def test_a_run_whose_terminal_is_gone_comes_to_its_end(few_manifest: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "run", "--events", "-"]
    reader, writer = os.pipe()
    os.close(reader)
    settings = fake_settings(few_manifest, tmp_path)
    ended = subprocess.run([*command, *settings], cwd=REPO, stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert ended.returncode == 1, "finished, with failed rows, as with a terminal"
    assert list(run_folder(tmp_path).glob("snapshots/*.json"))


@pytest.mark.slow  # starts a Ray of its own
def test_a_signal_to_the_whole_group_of_a_run_on_ray_ends_it_in_order(archive: Path, tmp_path: Path) -> None:
    slow = {"engine.options": "{seconds_per_audio_s: 0.02}", "runtime.kind": "ray"}
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "run",
        *fake_settings(archive / "manifest.jsonl", tmp_path, **slow),
    ]
    driver = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("parts/*/*.parquet"))) < 3:
        assert driver.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGTERM)  # as `timeout` does it: to the command, then to its group
    os.killpg(driver.pid, signal.SIGTERM)
    _, said = driver.communicate(timeout=50)
    assert driver.returncode == 3, said
    assert "the same command resumes" in said
    assert list(run_folder(tmp_path).glob("sessions/*.json")), "what was published is recorded"


def _unread(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, behind `| head` that has gone."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    try:
        return subprocess.run(command, cwd=REPO, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)


def test_what_nobody_reads_ends_no_command_with_a_complaint(archive: Path, few_manifest: Path, tmp_path: Path) -> None:
    settings = fake_settings(few_manifest, tmp_path / "out")
    done = _unread("run", *settings)
    assert (done.returncode, "BrokenPipe" in done.stderr) == (1, False), "the archive has one damaged recording"
    folder = str(run_folder(tmp_path / "out"))
    for arguments in (["status", "--json", folder], ["report", folder], ["--help"]):
        looked = _unread(*arguments)
        assert (looked.returncode, looked.stderr) == (0, ""), arguments
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{}\n" * 20_000)
    stopped = _unread("validate", "--all", f"manifest={bad}", *settings[1:])
    assert (stopped.returncode, stopped.stderr) == (128 + signal.SIGPIPE, "")
    listed = _unread("manifest", str(archive))
    assert (listed.returncode, listed.stderr) == (128 + signal.SIGPIPE, "")


def test_a_full_disk_is_no_reader_that_went_away(few_manifest: Path, tmp_path: Path) -> None:
    settings = fake_settings(few_manifest, tmp_path / "out")
    assert quarry("plan", *settings).returncode == 0
    command = [sys.executable, "-m", "pipeline.cli", "status", str(run_folder(tmp_path / "out"))]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=REPO, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode not in (0, 3)
    assert "No space left" in done.stderr
