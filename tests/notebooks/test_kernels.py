"""All four notebooks in real kernels: over a run of Whisper on real speech, and over one that lies in a bucket."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from archive_of_clips import NOTEBOOKS, priced, quarry, run_folder, write_archive
from nbclient import NotebookClient
from servers import S3Endpoint, connect

pytestmark = pytest.mark.slow


def executed(path: Path) -> tuple[str, int, int]:
    """What a notebook shows, once its kernel is through: all text, pictures, players of sound. Raises what a cell raises."""
    book = nbformat.read(path, as_version=4)
    nbformat.validate(book)
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs: list[Any] = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in outputs if output.output_type in ("execute_result", "display_data")]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    text = "".join(output.text for output in outputs if output.output_type == "stream")
    text += "\n".join(data.get("text/html") or data.get("text/plain", "") for data in shown)
    pictures = sum("image/png" in data for data in shown)
    return text, pictures, sum("<audio" in data.get("text/html", "") for data in shown)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper tiny.en over five clips and a broken file; the two quicker clips are flagged."""
    folder = tmp_path_factory.mktemp("heard")
    settings = [f"manifest={write_archive(folder / 'archive')}", f"output={folder / 'out'}", "runtime.kind=local"]
    quarry("run", *settings, "engine.language=en", "flags.chars_per_s=12", *priced(folder))
    return run_folder(folder / "out")


def test_a_run_of_whisper(heard: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUARRY_RUN", str(heard))
    (explore, _, _), (review, plots, players), (speed, speed_plots, _), (export, _, _) = map(executed, NOTEBOOKS)
    assert "leisure to consider" in explore
    (wer,) = re.findall(r"WER (\d+\.\d) %", review)
    assert float(wer) < 15
    assert players == len(re.findall(r"s: too_fast", review)) > 0
    assert (plots, speed_plots) == (5, 5)
    assert "The audio cannot be read" not in review
    assert re.search(r"10,000 h of audio: .* h of wall time", speed)
    assert "USD" in speed
    assert re.search(r"Pairs of [1-4] of 6 recordings", export)


def test_datasets_reads_the_pairs(heard: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The line that the notebook tells of."""
    import datasets

    monkeypatch.setenv("QUARRY_RUN", str(heard))
    text, _, _ = executed(NOTEBOOKS[3])
    (folder,) = re.findall(r"recordings in (.*)", text)
    pairs = datasets.load_dataset(
        "json", data_files=f"{folder}/pairs-*.jsonl", split="train", cache_dir=str(tmp_path / "cache")
    )
    assert f"{len(pairs)} pairs, " in text
    assert all(pair["text"] and pair["duration"] >= 1 for pair in pairs)


def test_a_run_in_a_bucket(s3_endpoint: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive and run lie in a store that the environment names, as any S3 program has it."""
    archive = write_archive(tmp_path / "archive", referenced=False).parent
    filesystem = connect(s3_endpoint)
    filesystem.mkdirs("quarry-notebooks", exist_ok=True)
    for path in archive.iterdir():
        filesystem.put_file(str(path), f"quarry-notebooks/archive/{path.name}")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint.endpoint_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3_endpoint.key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3_endpoint.secret)
    settings = {
        "manifest": "s3://quarry-notebooks/archive/manifest.jsonl",
        "output": "s3://quarry-notebooks/out",
        "engine.name": "fake",
        "engine.model": "fake",
        "chunk.vad": "energy",
        "runtime.kind": "local",
        "flags.chars_per_s": 10.45,  # flags two of the five clips
    }
    quarry("run", *(f"{key}={value}" for key, value in settings.items()))
    (run,) = filesystem.ls("quarry-notebooks/out", detail=False)
    monkeypatch.setenv("QUARRY_RUN", f"s3://{run}")
    explore, review, speed, export = (executed(path)[0] for path in NOTEBOOKS)
    assert "5 recordings" in explore
    assert review.count("<audio") == 2
    assert "The audio cannot be read" not in review
    assert "No price was given" in speed
    assert f"s3://{run}/exports/pairs-" in export
    assert "3 pairs, " in export
