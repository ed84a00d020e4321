"""Runs over a bare folder that grows, and over a Kaldi directory: the way from dialect to table."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile


def quarry(*words: str) -> str:
    """Standard output of a command that must end with 0."""
    command = [sys.executable, "-m", "pipeline.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def tone(path: Path) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    soundfile.write(path, np.sin(np.arange(32_000) * 0.1).astype(np.float32) * 0.3, 16_000)


def settings(manifest: Path, output: Path) -> list[str]:
    engine = {"engine.name": "fake", "engine.model": "fake", "engine.language": "en", "chunk.vad": "energy"}
    found = {"manifest": manifest, "output": output, "runtime.kind": "local", **engine}
    return [f"{key}={value}" for key, value in found.items()]


@pytest.mark.slow  # test_growth.py has the same for a file of rows
def test_a_folder_that_grows(tmp_path: Path) -> None:
    audio, output = tmp_path / "audio", tmp_path / "out"
    tone(audio / "b.wav")
    quarry("run", *settings(audio, output))
    tone(audio / "a" / "new.wav")
    quarry("run", *settings(audio, output))
    said = quarry("status", *settings(audio, output))
    assert "2 of 2 shards done" in said
    assert said.count("1 shards in") == 2


def test_a_kaldi_directory(tmp_path: Path) -> None:
    tone(tmp_path / "data" / "x.wav")
    (tmp_path / "data" / "wav.scp").write_text("rec x.wav\n")
    (tmp_path / "data" / "segments").write_text("u1 rec 0 1\nu2 rec 1 2\n")
    shown = quarry("run", *settings(tmp_path / "data", tmp_path / "out"))
    assert shown.startswith("Run data-")
    assert re.search(r"ok +2\n", shown)
