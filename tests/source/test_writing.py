"""`quarry manifest`: a listing with lengths, read back by the reader of manifests; bad files are rows that say so."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import soundfile
from servers import S3Endpoint

from pipeline.cli import main
from pipeline.config import SourceConfig
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import read_manifest


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """Three recordings of 1, 2 and 3 seconds, one that is none, one that is empty, one that cannot be named."""
    folder = tmp_path / "archive" / "audio"
    (folder / "deep").mkdir(parents=True)
    for seconds, name in enumerate(("deep/x: y.flac", "b.wav", "a.wav"), 1):
        noise = np.random.default_rng(seconds).normal(0, 0.1, seconds * 16_000)
        soundfile.write(folder / name, noise, 16_000)
    (folder / "broken.mp3").write_bytes(b"no audio at all" * 100)
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("not audio")
    return folder


def rows_in(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    return [json.loads(line) for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines()]


def test_a_folder(audio: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = audio.parent / "manifest.jsonl"
    assert main(["manifest", str(audio), "-o", str(target), "plan.probe_workers=2"]) == 1
    rows = rows_in(target)
    names = ["audio/a.wav", "audio/b.wav", "audio/broken.mp3", "audio/deep/x: y.flac", "audio/empty.wav"]
    assert [row["audio_filepath"] for row in rows] == names
    assert [row.get("duration") for row in rows] == [3.0, 2.0, None, 1.0, None]
    assert [row["error"].split(":")[0] for row in rows if "error" in row] == ["not_audio", "empty_file"]
    said = capsys.readouterr()
    assert "5 recordings, 0.00 h" in said.err
    assert "empty_file 1" in said.err
    assert said.out == ""
    report = check_manifest(str(target), SourceConfig())
    assert (report.rows, report.problem_count, report.refused_count, report.audio_s) == (5, 0, 0, 6.0)
    assert sorted(path.name for path in audio.parent.iterdir()) == ["audio", "manifest.jsonl"]


def test_to_the_screen_and_elsewhere(
    audio: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (audio / "broken.mp3").unlink()
    (audio / "empty.wav").unlink()
    monkeypatch.chdir(audio.parent)
    assert main(["manifest", "audio"]) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["audio_filepath"] for row in shown] == [str(audio / n) for n in ("a.wav", "b.wav", "deep/x: y.flac")]
    (tmp_path / "else").mkdir()
    packed = tmp_path / "else" / "m.jsonl.gz"
    assert main(["manifest", "audio/", "--out", str(packed)]) == 0
    assert rows_in(packed) == shown
    (audio / "line\nbreak.wav").touch()
    assert main(["manifest", "audio"]) == 1
    said = capsys.readouterr()
    assert "left out: 1 files" in said.err
    assert len(said.out.splitlines()) == 3


def test_a_bucket(audio: Path, moto_endpoint: S3Endpoint) -> None:
    options = moto_endpoint.storage_options()
    store = fsspec.filesystem("s3", **options)
    store.makedirs("probed", exist_ok=True)
    for name in ("a.wav", "b.wav", "broken.mp3"):
        store.put_file(str(audio / name), f"probed/in/audio/{name}")
    settings = [f"{section}.storage_options={json.dumps(options)}" for section in ("source", "store")]
    assert main(["manifest", "s3://probed/in/audio", "-o", "s3://probed/in/m.jsonl", *settings]) == 1
    config = SourceConfig(storage_options=options)
    rows = pa.concat_tables(read_manifest("s3://probed/in/m.jsonl", config)).to_pylist()
    assert [(row["id"], row["duration_s"]) for row in rows] == [
        ("audio/a.wav", 3.0),
        ("audio/b.wav", 2.0),
        ("audio/broken.mp3", None),
    ]
    assert dict(rows[2]["extra"])["error"].startswith("not_audio: ")


@pytest.mark.parametrize(
    ("words", "meaning"),
    [
        (["none"], "There is no folder"),
        (["audio", "-o", "m.csv"], "name it .jsonl"),
        (["audio", "-o", "none/m.jsonl"], "check that its folder is there"),
        (
            [
                "audio",
                "-o",
                "s3://no-such-bucket/m.jsonl",
                'store.storage_options={"endpoint_url": "http://127.0.0.1:9"}',
            ],
            "cannot be written",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    audio: Path, words: list[str], meaning: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(audio.parent)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    assert main(["manifest", *words]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("quarry: ")
    assert meaning in last
