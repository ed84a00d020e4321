"""Corpora for the benchmarks, made on the spot from the speech in demos/speech: many short FLAC clips and a manifest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

SPEECH = Path(__file__).resolve().parent.parent / "demos" / "speech" / "austen.flac"
MEAN_S, SHORTEST_S, LONGEST_S = 7.1, 1.0, 30.0  # LibriSpeech-like lengths


def make_clips(folder: Path, hours: float, seed: int = 0) -> Path:
    """16 kHz mono FLAC clips of log-normal length cut from looped speech; returns the manifest (durations stated)."""
    manifest = folder / f"clips-{hours:g}h.jsonl"
    if manifest.exists():
        return manifest
    folder.mkdir(parents=True, exist_ok=True)
    speech, rate_hz = soundfile.read(SPEECH, dtype="int16")
    random = np.random.default_rng(seed)
    rows: list[dict[str, str | float]] = []
    total_s = 0.0
    while total_s < hours * 3600:
        length_s = float(np.clip(random.lognormal(np.log(MEAN_S) - 0.125, 0.5), SHORTEST_S, LONGEST_S))
        start = int(random.integers(0, len(speech)))
        samples = np.take(speech, np.arange(start, start + int(length_s * rate_hz)), mode="wrap")
        path = folder / f"{hours:g}h-{len(rows):06d}.flac"
        soundfile.write(path, samples, rate_hz)
        rows.append({"audio_filepath": path.name, "duration": len(samples) / rate_hz, "lang": "en"})
        total_s += len(samples) / rate_hz
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest
