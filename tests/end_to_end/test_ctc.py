"""The ctc engine in the pipeline: random weights, so the text is nonsense; rows, words, times and confidences are not."""

from __future__ import annotations

from pathlib import Path

import pytest
from ctc_checkpoints import write_turboctc
from running import REPO, Done, quarry, table, texts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("turboctc")
    write_turboctc(folder)
    return folder


def run(manifest: Path, output: Path, model: Path, *settings: str) -> Done:
    """With the shipped config, as a user would, on this machine's CPU."""
    arguments = (
        f"--config={REPO / 'configs' / 'turboctc.yaml'}",
        f"manifest={manifest}",
        f"output={output}",
        f"engine.model={model}",
        "engine.threads=1",
        "runtime.kind=local",
        "plan.probe_workers=1",
        "runtime.engine_gpus=0",
        "plan.window_s=60",
        "plan.shard_s=90",
        *settings,
    )
    return quarry("run", *arguments)


def transcribe(manifest: Path, output: Path, model: Path, *settings: str) -> Path:
    done = run(manifest, output, model, *settings)
    assert done.returncode in (0, 1), done.stderr  # 1: the archive holds a broken file on purpose
    return output


@pytest.fixture(scope="module")
def output(short_manifest: Path, tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    return transcribe(short_manifest, tmp_path_factory.mktemp("ctc"), model)


def test_words_lie_in_their_segments_and_say_that_their_times_are_approximate(output: Path) -> None:
    rows = table(output).to_pylist()
    spoken = [row for row in rows if row["text"]]
    assert len(spoken) >= 5
    for row in spoken:
        reached_s = 0.0
        assert "word_times_approximate" in row["warnings"]
        for segment in row["segments"]:
            assert [word["word"] for word in segment["words"]] == segment["text"].split()
            for word in segment["words"]:
                assert reached_s <= word["start_s"] <= word["end_s"] <= segment["end_s"] + 1e-6
                assert word["start_s"] >= segment["start_s"]
                assert 0 < word["confidence"] <= 1
                reached_s = word["end_s"]
    silent = next(row for row in rows if row["id"].startswith("silence"))
    assert (silent["text"], silent["segments"], silent["warnings"]) == ("", [], [])


def test_other_batches_give_the_same(output: Path, short_manifest: Path, tmp_path: Path, model: Path) -> None:
    small = transcribe(short_manifest, tmp_path, model, "batch.max_audio_s=20")
    assert {id_: row[:2] for id_, row in texts(small).items()} == {id_: row[:2] for id_, row in texts(output).items()}


@pytest.mark.parametrize(
    ("setting", "says"),
    [("engine.language=fr", "cannot transcribe 'fr'"), ("engine.task=translate", "cannot translate")],
)
def test_what_turboctc_cannot_do_is_refused_before_a_run(
    short_manifest: Path, tmp_path: Path, model: Path, setting: str, says: str
) -> None:
    done = run(short_manifest, tmp_path, model, setting)
    assert done.returncode == 2
    assert says in done.stderr
    assert not list(tmp_path.iterdir())
