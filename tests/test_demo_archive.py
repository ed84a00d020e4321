"""The demo archive is what the demo promises: whole, in many formats, with one long, one silent and one broken recording."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

REPO = Path(__file__).resolve().parent.parent
PAUSE_S = 1.0


def make(folder: Path) -> str:
    command = [sys.executable, str(REPO / "demos" / "make_archive.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def decode(path: Path) -> tuple[np.ndarray, float]:
    """Samples as the decoder gives them, and their length in seconds."""
    with av.open(str(path)) as container:
        frames = list(container.decode(audio=0))
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames]), sum(
        f.samples / f.sample_rate for f in frames
    )


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo") / "archive"
    make(folder)
    return folder


@pytest.fixture(scope="module")
def rows(archive: Path) -> dict[str, dict[str, str]]:
    lines = (archive / "manifest.jsonl").read_text("utf-8").splitlines()
    return {row["id"]: row for row in map(json.loads, lines)}


def expected_lengths_s() -> dict[str, float]:
    """Per recording: its prompts, and a pause between two."""
    lengths: dict[str, float] = {}
    for line in (REPO / "demos" / "speech" / "sources.tsv").read_text("utf-8").splitlines()[1:]:
        recording, _, start_s, end_s, *_ = line.split("\t")
        before = lengths[recording] + PAUSE_S if recording in lengths else 0.0
        lengths[recording] = before + float(end_s) - float(start_s)
    return lengths


def test_every_recording_is_there_at_full_length(archive: Path, rows: dict[str, dict[str, str]]) -> None:
    expected = expected_lengths_s()
    assert set(rows) == {*expected, "upload-cut-off", "silence"}
    for name, length_s in expected.items():
        samples, decoded_s = decode(archive / rows[name]["audio_filepath"])
        # AAC and MP3 frames are up to 93 ms, with a delay of some frames at either end.
        assert decoded_s == pytest.approx(length_s, abs=0.25), name
        assert samples.any(), name
        assert rows[name]["text"], name


def test_one_is_long(rows: dict[str, dict[str, str]]) -> None:
    assert max(expected_lengths_s().values()) >= 600


def test_one_is_silent_and_one_is_broken(archive: Path, rows: dict[str, dict[str, str]]) -> None:
    samples, length_s = decode(archive / rows["silence"]["audio_filepath"])
    assert length_s == pytest.approx(20)
    assert not samples.any()
    with pytest.raises(av.error.InvalidDataError):
        decode(archive / rows["upload-cut-off"]["audio_filepath"])


def test_is_made_once(archive: Path) -> None:
    before = archive.stat().st_ino
    assert "already made" in make(archive)
    assert archive.stat().st_ino == before


@pytest.mark.slow
def test_is_made_again_with_the_same_bytes_when_a_file_is_gone(archive: Path) -> None:
    before = {path.name: path.read_bytes() for path in archive.rglob("*") if path.is_file()}
    (archive / "audio" / "agent.wav").unlink()
    assert "made" in make(archive)
    assert {path.name: path.read_bytes() for path in archive.rglob("*") if path.is_file()} == before


def test_recorded_speech_names_its_source_and_licence() -> None:
    header, *lines = (REPO / "demos" / "speech" / "sources.tsv").read_text("utf-8").splitlines()
    assert header.split("\t") == ["recording", "file", "start_s", "end_s", "text", "source", "licence"]
    licences = {line.split("\t")[1]: line.split("\t")[6] for line in lines}
    assert licences == {"prompts.opus": "CC-BY-SA-3.0", "austen.flac": "public domain"}
