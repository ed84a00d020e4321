"""The granite engine in the pipeline: random weights, so the text is nonsense; rows, flags, resuming and drafts are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from granite_checkpoints import read_tokenizer, write_granite
from running import REPO, quarry, run_folder, table, texts
from safetensors.torch import save_file

MOST_TOKENS = 60  # few chunks of the archive end by themselves before that; some loop


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As 4.1 is published: beside the weights a head that drafts. A bias alone: it drafts one token per chunk."""
    folder = tmp_path_factory.mktemp("granite")
    write_granite(folder)
    labels = read_tokenizer(folder).get_vocab_size() + 1
    bias = torch.nn.functional.one_hot(torch.tensor(40), labels) * 20.0
    save_file({"weight": torch.zeros(labels, 32), "bias": bias}, folder / "out_llm.safetensors")
    return folder


def settings(manifest: Path, output: Path, model: Path, *more: str) -> tuple[str, ...]:
    """With the shipped config, as a user would, on this machine's CPU."""
    return (
        f"--config={REPO / 'configs' / 'granite_ar.yaml'}",
        f"manifest={manifest}",
        f"output={output}",
        f"engine.model={model}",
        f"engine.options.max_new_tokens={MOST_TOKENS}",
        "engine.threads=1",
        "runtime.engine_gpus=0",
        "runtime.engine_cpus=0.5",
        "plan.window_s=60",
        "plan.shard_s=90",
        *more,
    )


def transcribe(manifest: Path, output: Path, model: Path, *more: str) -> Path:
    done = quarry("run", *settings(manifest, output, model, *more))
    assert done.returncode in (0, 1), done.stderr  # 1: the archive holds a broken file on purpose
    return output


@pytest.fixture(scope="module")
def alone(short_manifest: Path, tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return transcribe(short_manifest, tmp_path_factory.mktemp("alone"), model, "runtime.kind=local")


def test_rows_say_where_a_text_was_cut(alone: Path) -> None:
    rows = table(alone).to_pylist()
    assert {row["engine"] for row in rows} == {"granite"}
    spoken = [row for row in rows if row["text"]]
    assert len(spoken) >= 5
    flags: set[str] = set()
    for row in spoken:
        reached_s = 0.0
        for segment in row["segments"]:
            assert reached_s <= segment["start_s"] < segment["end_s"] <= row["duration_s"] + 1e-6
            assert segment["end_s"] - segment["start_s"] <= 30
            assert 0 < segment["confidence"] <= 1
            flags.update(segment["flags"])
            reached_s = segment["end_s"]
    assert {"token_budget_hit", "loop_cut"} <= flags
    silent = next(row for row in rows if row["id"].startswith("silence"))
    assert (silent["text"], silent["segments"]) == ("", [])


@pytest.mark.slow  # granite-nar and whisper go over Ray in the default run
@pytest.mark.usefixtures("ray_cluster")
def test_ray_and_other_batches_give_the_same(alone: Path, short_manifest: Path, tmp_path: Path, model: Path) -> None:
    on_ray = transcribe(short_manifest, tmp_path, model, "batch.max_audio_s=40")
    assert {id_: row[:2] for id_, row in texts(alone).items()} == {id_: row[:2] for id_, row in texts(on_ray).items()}


def test_a_run_is_resumed_where_it_stopped(alone: Path, short_manifest: Path, tmp_path: Path, model: Path) -> None:
    """One part is missing, as where a run was killed: it alone is made again, and nothing else is."""
    output = tmp_path / "out"
    shutil.copytree(alone, output)
    shutil.rmtree(run_folder(output) / "snapshots")
    parts = sorted((run_folder(output) / "parts").rglob("*.parquet"))
    assert len(parts) > 1
    times_ns = {part: part.stat().st_mtime_ns for part in parts}
    parts[0].unlink()
    transcribe(short_manifest, output, model, "runtime.kind=local")
    assert {part for part in parts if part.stat().st_mtime_ns != times_ns[part]} == {parts[0]}
    assert texts(output) == texts(alone)


def test_drafts_change_no_text_and_are_reported(alone: Path, short_manifest: Path, tmp_path: Path, model: Path) -> None:
    more = ("runtime.kind=local", "engine.options.speculate=true")
    output = transcribe(short_manifest, tmp_path, model, *more)
    assert {id_: row[:2] for id_, row in texts(output).items()} == {id_: row[:2] for id_, row in texts(alone).items()}
    shards = table(output, "shards")
    assert sum(shards["drafted_tokens"].to_pylist()) > 100
    report = quarry("report", *settings(short_manifest, tmp_path, model, *more))
    assert "of the tokens that had a draft to check" in report.stdout
