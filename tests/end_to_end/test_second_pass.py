"""`quarry second-pass` from the command to the table: over a run, over a run that has grown, killed, raced, and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from causal_models import write_causal
from running import REPO, fake_settings, quarry, run_folder

from pipeline.config.file import load_config
from pipeline.errors import EngineDead
from pipeline.second_pass.answers import ANSWERS
from pipeline.second_pass.prepare import prepare_pass, write_text_plan
from pipeline.second_pass.run import execute_pass
from pipeline.store.snapshot import Snapshot, latest_snapshot
from pipeline.store.tables import TableWriter


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "granite"
    write_causal(folder)
    return folder


@pytest.fixture(scope="module")
def rows(archive: Path) -> list[dict[str, str]]:
    found = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    return [{**row, "audio_filepath": str(archive / row["audio_filepath"])} for row in found]


@pytest.fixture
def settings(rows: list[dict[str, str]], archive: Path, model: Path, tmp_path: Path) -> list[str]:
    """A finished run of three recordings, of which one is silent, and a pass over it."""
    manifest = write(tmp_path / "manifest.jsonl", [row for row in rows if row["id"] in chosen(rows, 2)])
    extra = {
        "source.roots": f"[{archive}]",
        "second_pass.model": model,
        "second_pass.max_answer_tokens": 12,
        "second_pass.shard_recordings": 1,
        "second_pass.threads": 1,
    }
    found = fake_settings(manifest, tmp_path / "out", **extra)
    assert quarry("run", *found).returncode == 0
    return found


def chosen(rows: list[dict[str, str]], spoken: int) -> list[str]:
    """Some recordings with speech, and the silent one."""
    names = [row["id"] for row in rows]
    return [name for name in names if name.startswith("austen")][:spoken] + [
        name for name in names if "silence" in name
    ]


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pass_folder(output: Path) -> Path:
    (folder,) = (run_folder(output) / "second_pass").iterdir()
    return folder


def answers(folder: Path) -> list[dict[str, Any]]:
    snapshot = json.loads(sorted((folder / "snapshots").iterdir())[-1].read_text())
    tables = [pq.read_table(folder / file["key"]) for file in snapshot["files"]["answers"]]
    whole = pa.concat_tables(tables)
    assert whole.schema.equals(ANSWERS)
    found: list[dict[str, Any]] = whole.sort_by("recording_id").to_pylist()
    return found


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_every_transcript_gets_a_row_and_a_second_pass_writes_nothing(settings: list[str], tmp_path: Path) -> None:
    before = files(tmp_path / "out")
    done = quarry("second-pass", *settings)
    assert done.returncode == 0, done.stderr
    assert "3 transcripts: 2 ok, 1 skipped" in done.stdout
    folder = pass_folder(tmp_path / "out")
    found = answers(folder)
    assert [row["status"] for row in found] == ["ok", "ok", "skipped"]
    assert all(row["text"] and row["n_tokens"] and row["stop_reason"] for row in found[:2])
    assert all(row["task"] == "summary" and row["source_snapshot"] == 1 for row in found)
    assert found[2]["warnings"] == ["no_text"]
    written = files(tmp_path / "out")
    assert {path: when for path, when in written.items() if path in before} == before
    again = quarry("second-pass", *settings, "second_pass.batch_tokens=4096", "second_pass.shard_recordings=2")
    assert again.returncode == 0, again.stderr
    assert "Nothing to do" in again.stderr
    assert files(tmp_path / "out") == written
    assert quarry("verify", *settings).returncode == 0


def test_a_grown_run_is_asked_about_what_is_new(
    settings: list[str], rows: list[dict[str, str]], tmp_path: Path
) -> None:
    assert quarry("second-pass", *settings).returncode == 0
    folder = pass_folder(tmp_path / "out")
    old = answers(folder)
    parts = files(folder / "parts")
    write(tmp_path / "manifest.jsonl", [row for row in rows if row["id"] in chosen(rows, 4)])
    assert quarry("run", *settings).returncode == 0
    grown = quarry("second-pass", *settings)
    assert grown.returncode == 0, grown.stderr
    assert "2 of 5 shards to do, 2 transcripts" in grown.stderr
    found = {row["recording_id"]: row for row in answers(folder)}
    assert sorted(found) == sorted(chosen(rows, 4))
    assert [found[row["recording_id"]] for row in old] == old
    assert sorted(row["source_snapshot"] for row in found.values()) == [1, 1, 1, 2, 2]
    assert {path: when for path, when in files(folder / "parts").items() if path in parts} == parts


def test_a_changed_text_is_asked_about_again_and_a_text_that_comes_back_is_not(
    settings: list[str], tmp_path: Path
) -> None:
    first = prepare_pass(load_config(None, settings))
    assert execute_pass(first).exit_code == 0
    folder = pass_folder(tmp_path / "out")
    old = answers(folder)
    _publish_state(first.source_store, first.source, {old[0]["recording_id"]: "another text"}, "tables/changed")
    second = quarry("second-pass", *settings)
    assert "1 of 4 shards to do" in second.stderr
    changed = answers(folder)
    assert [row["recording_id"] for row in changed] == [row["recording_id"] for row in old]
    assert changed[0]["chars"] == len("another text")
    assert changed[0]["text"] != old[0]["text"]
    assert changed[1:] == old[1:]
    _publish_state(first.source_store, first.source, {}, "tables/restored")
    third = quarry("second-pass", *settings)
    assert third.returncode == 0, third.stderr
    assert "Nothing to do: all 4 shards" in third.stderr
    assert answers(folder) == old


def _publish_state(store: Any, snapshot: Snapshot, texts: dict[str, str], folder: str) -> None:
    """A later state of a run in which some recordings have other texts."""
    rows = pa.concat_tables([pq.read_table(store.open_file(file["key"])) for file in snapshot.files["transcripts"]])
    changed = [texts.get(row["id"], row["text"]) for row in rows.select(["id", "text"]).to_pylist()]
    rows = rows.set_column(rows.schema.get_field_index("text"), rows.schema.field("text"), pa.array(changed))
    writer = TableWriter(store, f"{folder}/transcripts", rows.schema)
    writer.add(rows)
    writer.close()
    latest = latest_snapshot(store)
    assert latest is not None
    newer = Snapshot(latest.number + 1, folder, {**snapshot.files, "transcripts": writer.files}, snapshot.run)
    assert store.put_if_absent(f"snapshots/{newer.number:05d}.json", json.dumps(asdict(newer)).encode())


def test_a_killed_pass_is_resumed_by_the_same_command(settings: list[str], tmp_path: Path) -> None:
    slow = [*settings, "second_pass.max_answer_tokens=200"]
    command = [sys.executable, "-m", "pipeline.cli", "second-pass", *slow]
    driver = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (parts := list((tmp_path / "out").rglob("second_pass/*/parts/*/*.parquet"))):
        assert driver.poll() is None, "the pass ended before it could be killed"
        assert time.monotonic() < deadline, "no parts appeared"
        time.sleep(0.005)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    folder = pass_folder(tmp_path / "out")
    assert not (folder / "snapshots").exists()
    kept = {path: path.stat().st_mtime_ns for path in parts}
    again = quarry("second-pass", *slow)
    assert again.returncode == 0, again.stderr
    assert [row["status"] for row in answers(folder)] == ["ok", "ok", "skipped"]
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items()), "a finished part was made again"
    assert len(list(folder.rglob("parts/*/*.parquet"))) == 3


def test_two_drivers_at_once_do_no_harm(settings: list[str], tmp_path: Path) -> None:
    one, other = (prepare_pass(load_config(None, settings)) for _ in range(2))
    outcomes = [execute_pass(one), execute_pass(other)]
    assert [(outcome.exit_code, outcome.done_now) for outcome in outcomes] == [(0, 3), (0, 0)]
    assert outcomes[0].snapshot == outcomes[1].snapshot
    assert len(list((pass_folder(tmp_path / "out") / "snapshots").iterdir())) == 1


def test_a_model_that_dies_leaves_the_rest_for_the_next_call(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.second_pass.generator import Generator

    generate, calls = Generator._generate, iter(range(9))

    def dies(self: Generator, *given: Any) -> Any:
        if next(calls) == 1:
            raise EngineDead("the accelerator is gone")
        return generate(self, *given)

    with monkeypatch.context() as patched:
        patched.setattr(Generator, "_generate", dies)
        broken = quarry("second-pass", *settings)
    assert broken.returncode == 3
    assert "the same command resumes" in broken.stderr
    assert len(list(pass_folder(tmp_path / "out").rglob("parts/*/*.parquet"))) in (1, 2)
    assert quarry("second-pass", *settings).returncode == 0


def test_a_text_that_is_gone_leaves_its_shard_undone(settings: list[str], tmp_path: Path) -> None:
    wanted = prepare_pass(load_config(None, settings))
    (file,) = run_folder(tmp_path / "out").glob("tables/*/transcripts/*.parquet")
    write_text_plan(wanted)
    file.rename(tmp_path / "away.parquet")
    undone = quarry("second-pass", *settings)
    assert undone.returncode == 3
    assert "3 shards are not done" in undone.stderr
    assert "could not be finished (answer)" in undone.stderr
    (tmp_path / "away.parquet").rename(file)
    assert quarry("second-pass", *settings).returncode == 0


def test_corrections_by_a_random_model_are_kept_out(settings: list[str], tmp_path: Path) -> None:
    done = quarry("second-pass", *settings, "second_pass.task=correction", "second_pass.name=fixed")
    assert done.returncode == 1
    assert "2 rejected, 1 skipped" in done.stdout
    folder = pass_folder(tmp_path / "out")
    assert folder.name.startswith("fixed-")
    transcripts = pq.read_table(next(run_folder(tmp_path / "out").glob("tables/*/transcripts")))
    texts = dict(zip(transcripts["id"].to_pylist(), transcripts["text"].to_pylist(), strict=True))
    assert {row["recording_id"]: row["text"] for row in answers(folder)} == texts


def test_a_failed_recording_is_a_row(settings: list[str], tmp_path: Path) -> None:
    """Too long for the context, and not to be parted."""
    tight = ["second_pass.context_tokens=80", "second_pass.long_text=fail", "second_pass.system=''"]
    done = quarry("second-pass", *settings, *tight, "second_pass.template='{text}'")
    assert done.returncode == 1, done.stderr
    failed = [row for row in answers(pass_folder(tmp_path / "out")) if row["status"] == "failed"]
    assert failed
    assert {(row["failure"]["stage"], row["failure"]["code"]) for row in failed} == {("answer", "text_too_long")}


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("second_pass.model=nowhere", "second_pass.model can be a folder"),
        ("second_pass.markup=chatml", "second_pass.markup=chatml"),
        ("second_pass.task=question", "second_pass.question"),
        ("second_pass.context_tokens=64", "second_pass.max_answer_tokens"),
        ("second_pass.device=tpu", "second_pass.device"),
        ("engine.language=fr", "`quarry run`"),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence(settings: list[str], override: str, wrong: str) -> None:
    refused = quarry("second-pass", *settings, override)
    assert refused.returncode == 2
    assert wrong in refused.stderr
    assert refused.stderr.count("\n") <= 2


def test_another_revision_of_the_model_is_drift(settings: list[str], model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    write_causal(own)
    settings = [*settings, f"second_pass.model={own}"]
    assert quarry("second-pass", *settings).returncode == 0
    write_causal(own, seed=1)
    refused = quarry("second-pass", *settings)
    assert refused.returncode == 2
    assert "second_pass.name" in refused.stderr


@pytest.mark.slow
def test_ray_gives_the_same_answers(settings: list[str], tmp_path: Path, ray_cluster: None) -> None:
    assert quarry("second-pass", *settings).returncode == 0
    folder = pass_folder(tmp_path / "out")
    on_ray = ["second_pass.name=ray", "runtime.kind=ray", "runtime.engine_workers=2"]
    done = quarry("second-pass", *settings, *on_ray)
    assert done.returncode == 0, done.stderr
    (other,) = {path for path in folder.parent.iterdir()} - {folder}
    assert answers(other) == answers(folder)


@pytest.mark.slow
def test_a_model_that_does_not_load_on_ray_is_one_sentence(settings: list[str], ray_cluster: None) -> None:
    refused = quarry("second-pass", *settings, "runtime.kind=ray", "second_pass.context_tokens=64")
    assert refused.returncode in (2, 3)  # Ray tries again before it gives up, and may say so in its own way
    assert "second_pass.max_answer_tokens" in refused.stderr.strip().splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.slow
def test_real_transcripts_are_read(short_manifest: Path, archive: Path, model: Path, tmp_path: Path) -> None:
    """Whisper's own text of recorded speech, in parts, on one process."""
    extra = {
        "engine.name": "whisper",
        "engine.model": "tiny.en",
        "second_pass.model": model,
        "second_pass.context_tokens": 400,
        "second_pass.max_answer_tokens": 24,
    }
    settings = fake_settings(short_manifest, tmp_path, **extra)
    assert quarry("run", *settings).returncode in (0, 1)
    assert quarry("second-pass", *settings).returncode == 0
    found = answers(pass_folder(tmp_path))
    assert any(row["parts"] > 1 and "text_split" in row["warnings"] for row in found)
    spoken = [row for row in found if row["status"] == "ok"]
    assert spoken
    assert all(row["chars_read"] <= row["chars"] <= row["chars_read"] + 2 for row in spoken)
    assert pc.all(pa.array([row["n_tokens"] > 0 for row in spoken])).as_py()
