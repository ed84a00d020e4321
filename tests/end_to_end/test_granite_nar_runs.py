"""The granite-nar engine in the pipeline: random weights, so the text is nonsense; rows, times and confidences are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from running import REPO, quarry, table, texts

from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("granite-nar")
    write_checkpoint(folder, TINY, layout="D", seed=3)
    return folder


def transcribe(manifest: Path, output: Path, model: Path, *settings: str) -> Path:
    """With the shipped config, as a user would, on this machine's CPU."""
    arguments = (
        f"--config={REPO / 'configs' / 'granite_nar.yaml'}",
        f"manifest={manifest}",
        f"output={output}",
        f"engine.model={model}",
        "engine.threads=1",
        "plan.probe_workers=1",
        "runtime.engine_gpus=0",
        "runtime.engine_cpus=0.5",
        "plan.window_s=60",
        "plan.shard_s=90",
        *settings,
    )
    done = quarry("run", *arguments)
    assert done.returncode in (0, 1), done.stderr  # 1: the archive holds a broken file on purpose
    return output


@pytest.fixture(scope="module")
def on_ray(ray_cluster: None, short_manifest: Path, tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return transcribe(short_manifest, tmp_path_factory.mktemp("ray"), model, "runtime.decode_workers=1")


def test_rows_times_and_confidences_hold_together(on_ray: Path) -> None:
    rows = table(on_ray).to_pylist()
    assert {row["engine"] for row in rows} == {"granite-nar"}
    spoken = [row for row in rows if row["text"]]
    assert len(spoken) >= 5
    for row in spoken:
        reached_s = 0.0
        for segment in row["segments"]:
            assert reached_s <= segment["start_s"] < segment["end_s"] <= row["duration_s"] + 1e-6
            assert segment["end_s"] - segment["start_s"] <= 30
            assert 0 < segment["confidence"] <= 1
            # Random tokens are no valid UTF-8, so words and text may break at other places; their characters are few to lose.
            assert 1 <= len(segment["words"]) <= len(segment["text"])
            assert all(0 < word["confidence"] <= 1 for word in segment["words"])
            assert {word["start_s"] for word in segment["words"]} == {None}  # the model gives no word times
            reached_s = segment["end_s"]
    silent = next(row for row in rows if row["id"].startswith("silence"))
    assert (silent["text"], silent["segments"]) == ("", [])


def test_one_process_and_other_batches_give_the_same(
    on_ray: Path, short_manifest: Path, tmp_path: Path, model: Path
) -> None:
    alone = transcribe(short_manifest, tmp_path, model, "runtime.kind=local", "batch.max_audio_s=20")
    assert {id_: row[:2] for id_, row in texts(alone).items()} == {id_: row[:2] for id_, row in texts(on_ray).items()}


def test_drafts_that_are_kept_are_reported(short_manifest: Path, tmp_path: Path, model: Path) -> None:
    sure = transcribe(
        short_manifest,
        tmp_path,
        model,
        "runtime.kind=local",
        "engine.options={keep_draft_mean: 0.000001, keep_draft_token: 0}",
    )
    flags = [segment["flags"] for row in table(sure).to_pylist() for segment in row["segments"]]
    assert flags
    assert all("draft" in flag for flag in flags), "random words earn others as well"
    settings = (f"--config={REPO / 'configs' / 'granite_nar.yaml'}", f"manifest={short_manifest}", f"output={tmp_path}")
    options = "engine.options={keep_draft_mean: 0.000001, keep_draft_token: 0}"
    cut = ("plan.window_s=60", "plan.shard_s=90", f"engine.model={model}", options)
    assert "drafts" in quarry("report", *settings, *cut).stdout
