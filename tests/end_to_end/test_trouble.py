"""Trouble under a run: racing drivers, killed drivers, engines that do not load or die, stores that go away, secrets."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from running import REPO, fake_settings, quarry, run_folder, table, texts
from servers import S3Endpoint

from pipeline.config.file import load_config
from pipeline.prepare import prepare
from pipeline.run import execute
from pipeline.runtime import ray_flow

FEW = {"plan.shard_s": 30}


@pytest.fixture(scope="module")
def few(few_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, str]]:
    """What an undisturbed run over the few gives."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert quarry("run", *fake_settings(few_manifest, output, **FEW)).returncode == 1
    return texts(output)


@pytest.fixture(scope="module")
def wanted(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str, str]]:
    """What an undisturbed run gives."""
    output = tmp_path_factory.mktemp("undisturbed")
    assert quarry("run", *fake_settings(archive / "manifest.jsonl", output)).returncode == 1
    return texts(output)


def test_two_drivers_that_planned_at_once_make_one_run(
    few_manifest: Path, tmp_path: Path, few: dict[str, tuple[str, str, str]]
) -> None:
    settings = fake_settings(few_manifest, tmp_path, **FEW)
    first, second = prepare(load_config(None, settings)), prepare(load_config(None, settings))
    assert execute(first).exit_code == 1
    assert execute(second).exit_code == 1
    assert texts(tmp_path) == few
    assert len(list((run_folder(tmp_path) / "plan").glob("*.json"))) == 1


def test_a_ray_driver_that_is_killed_is_resumed(
    few_manifest: Path, tmp_path: Path, few: dict[str, tuple[str, str, str]], ray_cluster: str
) -> None:
    """On a cluster that outlives it; `make chaos` does the same with faults and more deaths."""
    slow = {"engine.options": "{seconds_per_audio_s: 0.05}", "runtime.kind": "ray", "runtime.address": ray_cluster}
    settings = fake_settings(few_manifest, tmp_path, **FEW, **slow, **{"runtime.decode_workers": 1})
    command = [sys.executable, "-m", "pipeline.cli", "run", *settings]
    driver = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("parts/*/*.parquet"))) < 2:
        assert driver.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    again = quarry("run", *settings, "runtime.kind=local")
    assert again.returncode == 1, again.stderr
    assert texts(tmp_path) == few
    assert quarry("verify", *settings).returncode == 0


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
def test_several_shards_in_one_call_give_the_same_texts(
    archive: Path, tmp_path: Path, wanted: dict[str, tuple[str, str, str]]
) -> None:
    several = {"runtime.kind": "ray", "batch.shards_per_call": 4, "runtime.engine_cpus": 0.2}
    assert quarry("run", *fake_settings(archive / "manifest.jsonl", tmp_path, **several)).returncode == 1
    assert texts(tmp_path) == wanted


@pytest.mark.usefixtures("ray_cluster")
def test_an_engine_that_does_not_load_in_its_worker_is_one_sentence(short_manifest: Path, tmp_path: Path) -> None:
    from pipeline.engines.whisper.weights import fetch_model

    broken = tmp_path / "model"
    shutil.copytree(fetch_model("tiny.en"), broken)
    (broken / "model.bin").write_bytes(b"not a model")
    settings = [
        f"manifest={short_manifest}",
        f"output={tmp_path / 'out'}",
        f"engine.model={broken}",
        "engine.language=en",
    ]
    done = quarry("run", *settings, "runtime.engine_cpus=0.2", "runtime.decode_workers=1")
    assert done.returncode in (2, 3)
    said = done.stderr.strip().splitlines()[-1]
    assert "does not load" in said, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("ray_cluster")
def test_engines_that_do_not_fit_are_refused_at_once(
    few_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ray_flow._ROOM_TIMEOUT_S, "local", 2.0)  # waited out: there is no such room
    settings = fake_settings(few_manifest, tmp_path, **{"runtime.kind": "ray", "runtime.engine_gpus": 1})
    done = quarry("run", *settings)
    assert done.returncode == 2
    assert "do not fit on this Ray" in done.stderr


def test_an_engine_that_dies_in_one_process_leaves_the_rest_for_the_next_run(
    few_manifest: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "died"
    dying = {"engine.options": f"{{die_on_call: 3, fault_once: {marker}}}"}
    settings = fake_settings(few_manifest, tmp_path / "out", **FEW, **dying)
    first = quarry("run", *settings)
    assert first.returncode == 3
    assert "the same command resumes" in first.stderr
    assert quarry("run", *settings).returncode == 1
    assert table(tmp_path / "out").num_rows == 6


@pytest.mark.slow  # the store's door waits out a minute of outage before it gives up
def test_a_source_that_is_away_leaves_shards_undone_not_rows_failed(
    archive: Path, tmp_path: Path, s3_endpoint: S3Endpoint
) -> None:
    away = f'{{"endpoint_url": "http://127.0.0.1:9", "key": "{s3_endpoint.key}", "secret": "x"}}'
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text('{"audio_filepath": "s3://away/a.wav", "duration": 2.0}\n')
    settings = fake_settings(
        manifest, tmp_path / "out", **{"source.storage_options": away, "source.roots": "['s3://away']"}
    )
    done = quarry("run", *settings)
    assert done.returncode == 3
    assert "broke off" in done.stderr
    assert not list((tmp_path / "out").rglob("parts/*/*.parquet"))


def test_one_recording_that_breaks_a_step_is_a_row(
    short_manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.audio import window

    def breaks_on_silence(samples: object, *rest: object, real: object = window.speech_spans) -> object:
        if not samples.any():  # type: ignore[attr-defined]
            raise ZeroDivisionError("no energy")
        return real(samples, *rest)  # type: ignore[operator]

    monkeypatch.setattr(window, "speech_spans", breaks_on_silence)
    assert quarry("run", *fake_settings(short_manifest, tmp_path)).returncode == 1
    rows = {row["id"]: row for row in table(tmp_path).to_pylist()}
    assert rows["silence"]["failure"]["code"] == "internal_error"
    assert rows["agent"]["status"] == "ok"


def test_secrets_are_neither_stored_nor_printed(short_manifest: Path, tmp_path: Path) -> None:
    options = {"store.storage_options": '{"secret": "CANARY-1"}', "source.storage_options": '{"key": "CANARY-2"}'}
    settings = fake_settings(short_manifest, tmp_path, **options)
    said = [quarry(*command, *settings) for command in (["run"], ["report"], ["run", "--explain"], ["verify"])]
    assert said[0].returncode == 1, said[0].stderr
    assert not any("CANARY" in one.stdout + one.stderr for one in said)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"CANARY" not in path.read_bytes(), path


def test_a_damaged_part_is_found_and_said(short_manifest: Path, tmp_path: Path) -> None:
    settings = fake_settings(short_manifest, tmp_path)
    assert quarry("run", *settings).returncode == 1
    part = sorted(run_folder(tmp_path).rglob("parts/*/*.parquet"))[0]
    data = bytearray(part.read_bytes())
    for at in range(300, 700):
        data[at] ^= 1
    part.write_bytes(bytes(data))
    done = quarry("verify", *settings)
    assert done.returncode == 3
    assert part.stem in done.stdout


def test_a_terminated_run_ends_as_an_interrupted_one(few_manifest: Path, tmp_path: Path) -> None:
    slow = {"engine.options": "{seconds_per_audio_s: 0.05}"}
    settings = fake_settings(few_manifest, tmp_path, **FEW, **slow)
    driver = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli", "run", *settings], cwd=REPO, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("parts/*/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.02)
    driver.terminate()
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 3
    assert "the same command resumes" in said


def test_a_folder_that_vanishes_is_no_finished_run(short_manifest: Path, tmp_path: Path) -> None:
    """The rest was published into a new folder without a plan, and an empty snapshot said that all was well."""
    slow = {"engine.options": "{host_s: 0.4}", "plan.shard_s": 20}
    settings = fake_settings(short_manifest, tmp_path / "out", **slow)
    command = [sys.executable, "-m", "pipeline.cli", "run", *settings]
    driver = subprocess.Popen(command, cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "out").rglob("parts/*/*.parquet")):
        assert driver.poll() is None, "the run ended before its folder could be removed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 3, said
    assert not list((tmp_path / "out").rglob("snapshots/*.json"))
    assert quarry("run", *settings).returncode == 1


@pytest.mark.slow  # starts a Ray of its own, whose core wants SIGTERM for itself; in one process: the test above
def test_a_terminated_run_on_ray_records_what_is_done_and_leaves_no_process(
    archive: Path, tmp_path: Path, wanted: dict[str, tuple[str, str, str]]
) -> None:
    slow = {"engine.options": "{seconds_per_audio_s: 0.02}", "runtime.kind": "ray"}
    settings = fake_settings(archive / "manifest.jsonl", tmp_path, **slow)
    command = [sys.executable, "-m", "pipeline.cli", "run", *settings]
    driver = subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True)
    seen: set[psutil.Process] = set()  # decoders have sessions of their own, and may be gone before the end
    deadline = time.monotonic() + 120
    while len(list(tmp_path.rglob("parts/*/*.parquet"))) < 4:
        assert driver.poll() is None, "the run ended before it could be stopped"
        assert time.monotonic() < deadline
        seen.update(psutil.Process(driver.pid).children(recursive=True))
        time.sleep(0.05)
    begun = time.monotonic()
    driver.terminate()
    _, said = driver.communicate(timeout=60)
    took_s = time.monotonic() - begun
    assert driver.returncode == 3, said
    assert "the same command resumes" in said
    assert took_s < 20
    assert len(seen) > 5, "Ray, its actors and their decoders"
    _, left = psutil.wait_procs(seen, timeout=5)
    assert not left
    assert list(run_folder(tmp_path).glob("sessions/*.json")), "what was published is recorded"
    again = quarry("run", *settings, "runtime.kind=local")
    assert again.returncode == 1, again.stderr
    assert texts(tmp_path) == wanted
