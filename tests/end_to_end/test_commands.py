"""What the commands print, and that looking writes nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from running import REPO, fake_settings, quarry, run_folder, table

from pipeline.metrics.wer import error_rate, total
from pipeline.schema import transcript_of


def priced(folder: Path) -> dict[str, str]:
    """Settings of two machines at 2 USD an hour each."""
    file = folder / "prices.yaml"
    file.write_text("machines: {box: {usd_per_hour: 2.0}}")
    return {"cost.prices": str(file), "cost.machines": "{box: 2}"}


@pytest.fixture(scope="module")
def settings(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A finished run."""
    output = tmp_path_factory.mktemp("commands")
    made = fake_settings(archive / "manifest.jsonl", output, **priced(output))
    assert quarry("run", *made).returncode == 1
    return made


@pytest.mark.parametrize("command", [["run", "--explain"], ["validate"]])
def test_looking_writes_nothing(archive: Path, tmp_path: Path, command: list[str]) -> None:
    output = tmp_path / "out"
    done = quarry(*command, *fake_settings(archive / "manifest.jsonl", output))
    assert done.returncode == 0, done.stderr
    assert not output.exists()


def test_explain_tells_settings_hours_shards_and_cost(archive: Path, tmp_path: Path) -> None:
    done = quarry("run", "--explain", *fake_settings(archive / "manifest.jsonl", tmp_path, **priced(tmp_path)))
    assert "overlap_s: 8.0" in done.stdout
    assert "14 recordings, 0.2" in done.stdout
    assert "shards" in done.stdout
    assert "cost       about $" in done.stdout
    for words in ("language", "under 10 s", "10 to 60 min", "engine hours"):
        assert words in done.stdout


def test_plan_writes_the_plan_and_run_takes_it(archive: Path, tmp_path: Path) -> None:
    made = fake_settings(archive / "manifest.jsonl", tmp_path)
    assert quarry("plan", *made).returncode == 0
    (header,) = (run_folder(tmp_path) / "plan").glob("*.json")
    before = header.read_bytes()
    assert quarry("status", *made).returncode == 3
    assert quarry("run", *made).returncode == 1
    assert header.read_bytes() == before


def test_validate_names_every_bad_row(tmp_path: Path) -> None:
    rows = ['{"audio_filepath": "a.wav"}', "{", '{"audio_filepath": "b.wav", "duration": -1}', '{"uri": "/etc/passwd"}']
    (tmp_path / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    done = quarry("validate", *fake_settings(tmp_path / "manifest.jsonl", tmp_path / "out"))
    assert done.returncode == 2
    assert "line 2" in done.stdout
    assert "line 3" in done.stdout
    assert "line 4" in done.stdout
    assert "uri_refused" in done.stdout


def test_the_report_shows_what_a_person_asks_first(settings: list[str]) -> None:
    done = quarry("report", *settings)
    assert done.returncode == 0
    for words in ("failed", "WER", "engine RTFx", "pipeline RTFx", "engine busy", "padding", "USD per audio hour"):
        assert words in done.stdout
    assert "upload-cut-off  bad_header:" in done.stdout
    assert "Next, try:" in done.stdout


def test_the_report_adds_up(settings: list[str]) -> None:
    output = Path(next(word for word in settings if word.startswith("output=")).removeprefix("output="))
    run = json.loads(next(run_folder(output).glob("tables/*/run.json")).read_text())
    rows = [transcript_of(row) for row in table(output).to_pylist()]
    assert run["totals"]["recordings"] == len(rows) == 14
    assert run["totals"]["audio_s"] == pytest.approx(sum(row.duration_s for row in rows))
    assert run["totals"]["wer"] == error_rate(total(row.word_errors for row in rows if row.word_errors))
    (session,) = run["sessions"]
    assert session["audio_s"] == pytest.approx(run["totals"]["audio_s"])
    shards = table(output, "shards")
    assert sum(shards["audio_s"].to_pylist()) == pytest.approx(run["totals"]["audio_s"])


def test_the_run_keeps_what_was_expected_and_what_was_spent(settings: list[str]) -> None:
    output = Path(next(word for word in settings if word.startswith("output=")).removeprefix("output="))
    run = json.loads(next(run_folder(output).glob("tables/*/run.json")).read_text())
    cost, (session,) = run["cost"], run["sessions"]
    assert cost["spent"]["usd"] == pytest.approx(session["wall_s"] / 3600 * 4.0)
    assert cost["spent"]["usd_per_audio_h"] == pytest.approx(cost["spent"]["usd"] / (session["audio_s"] / 3600))
    planned = json.loads(next(run_folder(output).glob("plan/*.json")).read_text())
    assert cost["expected"] == planned["expected"]
    assert cost["expected"]["usd"] == pytest.approx(
        planned["totals"]["audio_s"] / 3600 / 10_000 * 4.0
    )  # the fake engine's
    for part in ("by_language", "by_duration"):
        assert sum(share["recordings"] for share in planned["totals"][part].values()) == 14


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(few_manifest: Path, tmp_path: Path) -> None:
    slow = {"engine.options": "{seconds_per_audio_s: 0.05}", "plan.shard_s": 30}
    made = fake_settings(few_manifest, tmp_path, **slow)
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", *made],
        cwd=REPO,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # background jobs inherit it ignored
    )
    deadline = time.monotonic() + 120
    # Two: the driver has counted the first, or its session would have nothing to record.
    while len(list(tmp_path.rglob("parts/*/*.parquet"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 3
    assert "the same command resumes" in said
    assert "Traceback" not in said
    assert list(run_folder(tmp_path).glob("sessions/*.json")), "the session was not recorded"
