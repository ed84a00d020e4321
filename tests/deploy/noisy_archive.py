"""A small archive that costs nothing to make: noise, with a manifest."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np


def write_archive(folder: Path, recordings: int, duration_s: int = 20) -> Path:
    """`recordings` WAV files of noise, r00.wav and on; returns the manifest beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(7)
    rows = []
    for number in range(recordings):
        path = folder / f"r{number:02}.wav"
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes((noise.standard_normal(duration_s * 16_000) * 3000).astype("<i2").tobytes())
        rows.append({"audio_filepath": path.name, "duration": float(duration_s), "lang": "en"})
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
