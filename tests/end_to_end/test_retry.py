"""`quarry retry`: what a first engine got wrong or could not have, heard again; nothing overwritten, lost or done twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import REPO, fake_settings, quarry, run_folder, table, texts

from pipeline.config.file import load_config
from pipeline.errors import ConfigError
from pipeline.retry import execute_retry, prepare_retry, second_engine
from pipeline.text.timeline import audit

BUDGET_HIT = "engine.options={beam_size: 1, max_new_tokens: 12}"  # about eight words: every longer chunk is cut short
WHOLE = "retry.engine.options={beam_size: 1}"


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every object of a run: when it was written, and its bytes."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def rows(output: Path, name: str = "transcripts") -> dict[str, dict[str, Any]]:
    key = "id" if name == "transcripts" else "recording_id"
    return {row[key]: row for row in table(output, name).to_pylist()}


@dataclass(frozen=True)
class Short:
    """A whisper run that was cut short everywhere, of which one object was missing; both are mended by now."""

    settings: list[str]
    output: Path
    before: dict[str, tuple[int, bytes]]
    first: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def short(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Short:
    """Three recordings of real speech, the first engine at the end of its tokens in each, one object away at first."""
    folder = tmp_path_factory.mktemp("short")
    lines = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    chosen = [row for row in lines if row["id"] in ("austen-0870", "austen-0890", "austen-0920")]  # the longer ones
    for row in chosen[:2]:
        shutil.copy(archive / row["audio_filepath"], folder / Path(row["audio_filepath"]).name)
    told = [{**row, "audio_filepath": Path(row["audio_filepath"]).name} for row in chosen]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in told))
    output = folder / "out"
    settings = [f"manifest={manifest}", f"output={output}", "engine.language=en", "runtime.kind=local", BUDGET_HIT]
    assert quarry("run", *settings).returncode == 1
    before, first = listing(run_folder(output)), rows(output)
    shutil.copy(archive / chosen[2]["audio_filepath"], folder / told[2]["audio_filepath"])
    done = quarry("retry", *settings, "--flagged", "--failed", WHOLE)
    assert done.returncode == 0, done.stderr
    assert "replaced (" in done.stdout
    return Short(settings, output, before, first)


def test_cut_texts_become_whole_and_a_missing_recording_is_there(short: Short) -> None:
    now = rows(short.output)
    assert {row["status"] for row in short.first.values()} == {"ok", "failed"}
    assert {row["status"] for row in now.values()} == {"ok"}
    for name, row in now.items():
        first = short.first[name]
        words, errors = row["word_reference_length"], row["word_deletions"]
        assert "retried" in row["flags"], name
        assert "token_budget_hit" not in row["flags"], name
        assert len(row["text"]) > len(first["text"]), name
        assert errors < words / 4, (name, row["text"])
        if first["status"] == "ok":
            assert "token_budget_hit" in first["flags"]
            assert first["word_deletions"] > errors, "the error counts are the old ones"
        assert row["failure"] is None
        assert (row["engine"], row["fingerprint"]) == (first["engine"], first["fingerprint"])
        pieces = [(one["start_s"], one["end_s"]) for one in [*row["segments"], *row["spans"]]]
        assert audit(0.0, row["duration_s"], pieces) == []


def test_both_hypotheses_are_kept(short: Short) -> None:
    tried = table(short.output, "retries").to_pylist()
    assert {row["recording_id"] for row in tried} == set(short.first)
    assert {row["reason"] for row in tried} == {"lighter", "recovered"}
    for row in tried:
        assert row["choice"] == "second"
        assert (row["first_text"] == "") == (row["reason"] == "recovered")
        assert row["first_text"] in short.first[row["recording_id"]]["text"]
        assert row["second_text"] in rows(short.output)[row["recording_id"]]["text"]
        assert row["second_confidence"] > 0.5
        assert row["second_flags"] == []
        assert row["model"] == "tiny.en"


def test_nothing_of_the_first_run_is_overwritten(short: Short) -> None:
    after = listing(run_folder(short.output))
    assert {key: after[key] for key in short.before} == short.before
    assert all(key.startswith(("retries/", "tables/", "snapshots/")) for key in after.keys() - short.before.keys())


def test_the_same_retry_again_puts_nothing(short: Short) -> None:
    before = listing(run_folder(short.output))
    again = quarry("retry", *short.settings, "--flagged", "--failed", WHOLE)
    assert again.returncode == 0
    assert "Nothing to hear again" in again.stdout
    assert quarry("run", *short.settings).returncode == 0
    assert listing(run_folder(short.output)) == before


def test_verify_report_and_status_know_of_it(short: Short) -> None:
    verified = quarry("verify", *short.settings)
    assert verified.returncode == 0
    assert "retry 00001-" in verified.stdout
    assert "3 stretches, 3 replaced" in quarry("report", *short.settings).stdout
    assert "retry 00001-" in quarry("status", *short.settings).stdout


def test_a_text_that_leaves_something_out_replaces_nothing(short: Short, tmp_path: Path) -> None:
    """The same recordings, a second engine that is cut shorter still."""
    copied = tmp_path / "out"
    shutil.copytree(short.output, copied)
    folder = run_folder(copied)
    for key in listing(folder).keys() - short.before.keys():
        (folder / key).unlink()  # as it was before the first retry
    settings = [*short.settings, f"output={copied}"]
    done = quarry("retry", *settings, "--flagged", "retry.engine.options={beam_size: 1, max_new_tokens: 6}")
    assert done.returncode == 1, done.stderr  # one recording has still failed
    assert {row["reason"] for row in table(copied, "retries").to_pylist()} == {"covers_less"}
    now = rows(copied)
    assert {name: row["text"] for name, row in now.items()} == {name: row["text"] for name, row in short.first.items()}
    assert "2 stretches, 0 replaced" in quarry("report", *settings).stdout


def test_a_retry_killed_before_its_snapshot_gets_it_from_the_same_command(short: Short, tmp_path: Path) -> None:
    copied = tmp_path / "out"
    shutil.copytree(short.output, copied)
    whole = rows(copied)
    (run_folder(copied) / "snapshots" / "00002.json").unlink()
    for path in run_folder(copied).glob("tables/*/retries/*"):
        path.unlink()
    done = quarry("retry", *short.settings, f"output={copied}", "--flagged", "--failed", WHOLE)
    assert done.returncode == 0, done.stderr
    assert "shards to do" not in done.stderr
    assert rows(copied) == whole
    assert len(rows(copied, "retries")) == 3


# --------------------------------------------------------------------------------------------------------------------
# Recordings that failed, with an engine that costs nothing


@pytest.fixture
def away(archive: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Some of the demo archive, its long recording among it but not there: (the folder, the place of the missing object)."""
    folder = tmp_path / "archive"
    shutil.copytree(archive, folder)
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    some = [row for row in lines if row["id"] in ("agent", "silence", "switchboard", "upload-cut-off")]
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    (place,) = [folder / row["audio_filepath"] for row in some if row["id"] == "switchboard"]
    place.rename(tmp_path / "away")
    return folder, place


def plain(found: dict[str, tuple[str, str, str]], name: str) -> tuple[str, str, str]:
    """Status, text and segments without the mark of a retry."""
    status, text, segments = found[name]
    return status, text, segments.replace('"retried", ', "").replace('"retried"', "")


def test_a_long_recording_that_comes_late_is_as_if_it_had_been_there(away: tuple[Path, Path], tmp_path: Path) -> None:
    settings = fake_settings(away[0] / "manifest.jsonl", tmp_path / "out")
    assert quarry("run", *settings).returncode == 1
    assert quarry("retry", *settings, "--failed").returncode == 1
    assert rows(tmp_path / "out")["switchboard"]["failure"]["attempts"] == 2
    (tmp_path / "away").rename(away[1])
    late = quarry("retry", *settings, "--failed")
    assert late.returncode == 1, late.stderr  # one upload is broken for good
    assert quarry("run", *fake_settings(away[0] / "manifest.jsonl", tmp_path / "whole")).returncode == 1
    now, whole = texts(tmp_path / "out"), texts(tmp_path / "whole")
    assert plain(now, "switchboard") == plain(whole, "switchboard")
    assert {name: now[name] for name in now if name != "switchboard"} == {
        name: whole[name] for name in whole if name != "switchboard"
    }
    failed = rows(tmp_path / "out")["upload-cut-off"]
    assert (failed["status"], failed["failure"]["attempts"]) == ("failed", 3)


def test_a_killed_retry_is_resumed_and_a_later_run_keeps_it(away: tuple[Path, Path], tmp_path: Path) -> None:
    settings = fake_settings(away[0] / "manifest.jsonl", tmp_path / "out")
    assert quarry("run", *settings).returncode == 1
    (tmp_path / "away").rename(away[1])
    slow = ["--failed", "retry.shard_s=60", "retry.engine.options={seconds_per_audio_s: 0.006}"]
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "retry", *settings, *slow],
        cwd=REPO,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = run_folder(tmp_path / "out")
    deadline = time.monotonic() + 120
    while len(list(folder.glob("retries/*/parts/*/*.parquet"))) < 2:
        assert driver.poll() is None, "the retry ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = listing(folder)
    assert len(list((folder / "snapshots").iterdir())) == 1
    assert quarry("run", *settings).returncode == 1
    assert listing(folder) == before, "a retry that is not finished changed the run"
    assert quarry("verify", *settings).returncode == 0
    assert quarry("retry", *settings, *slow).returncode == 1
    after = listing(folder)
    assert {key: after[key] for key in before} == before, "something finished was redone"
    assert len(list((folder / "retries").iterdir())) == 1
    assert rows(tmp_path / "out")["switchboard"]["status"] == "ok"
    manifest = away[0] / "manifest.jsonl"
    grown = {"id": "one more", "audio_filepath": json.loads(manifest.read_text().splitlines()[0])["audio_filepath"]}
    manifest.write_text(manifest.read_text() + json.dumps(grown) + "\n")
    assert quarry("run", *settings).returncode == 1
    now = rows(tmp_path / "out")
    assert now["one more"]["status"] == "ok"
    assert "retried" in now["switchboard"]["flags"]
    assert len(json.loads(sorted((folder / "snapshots").iterdir())[-1].read_text())["run"]["retries"]) == 1


def test_failed_stretches_come_good_and_their_rows_with_them(archive: Path, tmp_path: Path) -> None:
    settings = fake_settings(archive / "manifest.jsonl", tmp_path, **{"engine.options": "{oom_above_s: 15}"})
    assert quarry("run", *settings).returncode == 1
    first = rows(tmp_path)
    partly = {name for name, row in first.items() if row["status"] == "partial"}
    assert len(partly) >= 3
    assert quarry("retry", *settings, "--failed", "retry.engine.options={}").returncode == 1
    now = rows(tmp_path)
    assert {name for name, row in now.items() if row["status"] != "ok"} == {"upload-cut-off"}
    for name in partly:
        row, before = now[name], first[name]
        pieces = [(one["start_s"], one["end_s"]) for one in [*row["segments"], *row["spans"]]]
        assert audit(0.0, row["duration_s"], pieces, tolerance_s=1e-3) == [], name
        assert row["duration_s"] == pytest.approx(before["duration_s"])
        assert {one["kind"] for one in row["spans"]} <= {"non_speech"}
        kept = [one["text"] for one in row["segments"] if "retried" not in one["flags"]]
        assert kept == [one["text"] for one in before["segments"]], name
        assert len(row["text"]) > len(before["text"])
    reasons = {row["reason"] for row in table(tmp_path, "retries").to_pylist()}
    assert reasons == {"recovered", "second_failed"}


def test_two_drivers_at_once_make_one_retry(away: tuple[Path, Path], tmp_path: Path) -> None:
    settings = fake_settings(away[0] / "manifest.jsonl", tmp_path / "out")
    assert quarry("run", *settings).returncode == 1
    (tmp_path / "away").rename(away[1])
    config = load_config(None, [*settings, "retry.flagged=false", "retry.failed=true"])
    first, second = prepare_retry(config), prepare_retry(config)
    assert first
    assert second
    assert execute_retry(first).exit_code == 1
    after_one = listing(run_folder(tmp_path / "out"))
    outcome = execute_retry(second)
    assert outcome.exit_code == 1
    assert outcome.done_now == 0
    assert listing(run_folder(tmp_path / "out")) == after_one


def test_a_run_that_grows_meanwhile_takes_the_retry_in_when_it_is_done(away: tuple[Path, Path], tmp_path: Path) -> None:
    settings = fake_settings(away[0] / "manifest.jsonl", tmp_path / "out")
    assert quarry("run", *settings).returncode == 1
    (tmp_path / "away").rename(away[1])
    planned = prepare_retry(load_config(None, [*settings, "retry.flagged=false", "retry.failed=true"]))
    assert planned
    manifest = away[0] / "manifest.jsonl"
    one = json.loads(manifest.read_text().splitlines()[0])
    manifest.write_text(manifest.read_text() + json.dumps({**one, "id": "one more"}) + "\n")
    assert quarry("plan", *settings).returncode == 0
    outcome = execute_retry(planned)
    assert (outcome.exit_code, outcome.left, outcome.snapshot) == (3, 0, None)
    assert rows(tmp_path / "out")["switchboard"]["status"] == "failed"
    assert quarry("run", *settings).returncode == 1
    now = rows(tmp_path / "out")
    assert (now["switchboard"]["status"], now["one more"]["status"]) == ("ok", "ok")


@pytest.mark.slow  # a Ray of its own; what it adds to the other tests is the placement alone
@pytest.mark.usefixtures("ray_cluster")
def test_on_ray_the_same_comes_of_it(away: tuple[Path, Path], tmp_path: Path) -> None:
    settings = fake_settings(away[0] / "manifest.jsonl", tmp_path / "out")
    assert quarry("run", *settings).returncode == 1
    shutil.copytree(tmp_path / "out", tmp_path / "ray")
    (tmp_path / "away").rename(away[1])
    options = ["--failed", "retry.shard_s=60"]
    assert quarry("retry", *settings, *options).returncode == 1
    on_ray = [f"output={tmp_path / 'ray'}", "runtime.kind=ray", "runtime.engine_cpus=0.2"]
    done = quarry("retry", *settings, *on_ray, *options)
    assert done.returncode == 1, done.stderr
    assert texts(tmp_path / "ray") == texts(tmp_path / "out")


# --------------------------------------------------------------------------------------------------------------------
# What is refused, and what is told


def test_a_run_that_is_not_finished_is_finished_first(short_manifest: Path, tmp_path: Path) -> None:
    settings = fake_settings(short_manifest, tmp_path)
    refused = quarry("retry", *settings, "--failed")
    assert refused.returncode == 2
    assert "`quarry run`" in refused.stderr
    assert quarry("plan", *settings).returncode == 0
    refused = quarry("retry", *settings, "--failed")
    assert refused.returncode == 2
    assert "is not finished" in refused.stderr


def test_an_engine_that_cannot_serve_is_refused_before_anything_starts(short_manifest: Path, tmp_path: Path) -> None:
    settings = fake_settings(short_manifest, tmp_path)
    assert quarry("run", *settings).returncode == 1
    before = listing(run_folder(tmp_path))
    for options, said in (
        (["--failed", "retry.engine.options={languages: [de]}"], "cannot"),
        (["--flagged"], "would hear the same again"),
        (["--flagged=loud", "--engine", "whisper"], "There is no flag 'loud'"),
        (["retry.flagged=false", "--engine", "whisper"], "give --flagged or --failed"),
        (["--failed", "--engine", "whisper", "retry.engine.task=translate"], "retry.engine.task"),
        (["--failed", "--engine", "nobody"], "no engine 'nobody'"),
    ):
        refused = quarry("retry", *settings, *options)
        assert refused.returncode == 2, (options, refused.stdout)
        assert said in refused.stderr
    assert listing(run_folder(tmp_path)) == before


def test_where_nothing_is_flagged_there_is_nothing_to_do(short_manifest: Path, tmp_path: Path) -> None:
    # The fake engine has twelve words: its text is as repetitive as one that goes round in circles.
    settings = fake_settings(short_manifest, tmp_path, **{"flags.compression_ratio": "null"})
    assert quarry("run", *settings).returncode == 1
    before = listing(run_folder(tmp_path))
    done = quarry("retry", "--flagged", *settings, "--engine", "whisper", "--model", "tiny.en")
    assert (done.returncode, done.stderr) == (1, ""), "as `quarry run` of the same run: a row is failed"
    assert "Nothing to hear again" in done.stdout
    assert listing(run_folder(tmp_path)) == before


def test_the_second_engine_takes_from_the_first_what_belongs_to_the_archive() -> None:
    base = ["manifest=m", "output=o", "engine.name=whisper", "engine.model=base", "engine.revision=r1"]
    base += ["engine.language=en", "engine.options={beam_size: 1}", "engine.device=cpu"]

    def second(*overrides: str) -> Any:
        return second_engine(load_config(None, [*base, *overrides]))

    assert second() == load_config(None, base).engine
    same = second("retry.engine.options={beam_size: 4}")
    assert (same.model, same.revision, same.language, same.options) == ("base", "r1", "en", {"beam_size": 4})
    assert second("retry.engine.model=small").revision is None
    other = second("retry.engine.name=fake", "retry.engine.model=m")
    assert (other.name, other.options, other.language, other.device) == ("fake", {}, "en", "cpu")
    assert second("retry.engine.name=fake", "retry.engine.language=fr").language == "fr"
    with pytest.raises(ConfigError, match="task"):
        second("retry.engine.task=translate")
