"""The same clips as files, as WebDataset, as lhotse's Shar and as Hugging Face's Parquet: each written by its own library."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 16_000


@dataclass(frozen=True)
class Clip:
    """A recording that a test has made."""

    key: str
    suffix: str
    data: bytes
    length_s: float
    text: str


def made_clips(suffixes: Sequence[str] = ("flac", "mp3", "wav", "flac", "wav", "mp3", "flac")) -> list[Clip]:
    """Chirps of different lengths and pitches, so that no two are transcribed alike."""
    clips = []
    for n, suffix in enumerate(suffixes):
        samples = np.arange(RATE_HZ * (n + 2) // 2)
        wave = 0.3 * np.sin(samples * (0.05 + 0.02 * n) * (1 + samples / len(samples)))
        file = io.BytesIO()
        soundfile.write(file, wave.astype(np.float32), RATE_HZ, format=suffix.upper())
        clips.append(Clip(f"clip{n}", suffix, file.getvalue(), len(samples) / RATE_HZ, f"text {n}"))
    return clips


def as_files(clips: Sequence[Clip], folder: Path) -> Path:
    """Audio files and their JSON Lines."""
    folder.mkdir(parents=True)
    for clip in clips:
        (folder / f"{clip.key}.{clip.suffix}").write_bytes(clip.data)
    rows = [
        {"id": one.key, "audio_filepath": f"{one.key}.{one.suffix}", "text": one.text, "speaker": "s1"} for one in clips
    ]
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return manifest


def as_webdataset(clips: Sequence[Clip], folder: Path, per_shard: int = 3) -> Path:
    """Tar files by webdataset's own writer."""
    import webdataset

    folder.mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / "shard-%06d.tar"), maxcount=per_shard, verbose=0) as writer:
        for clip in clips:
            about = {"text": clip.text, "lang": "en", "path": f"/old/{clip.key}.wav", "speaker": "s1"}
            writer.write({"__key__": clip.key, clip.suffix: clip.data, "json": about})
    return folder


def as_shar(clips: Sequence[Clip], folder: Path, audio: str, per_shard: int = 2) -> Path:
    """Shar by lhotse's own writer: it decodes the clips and encodes them anew as `audio`."""
    import lhotse
    from lhotse.shar import SharWriter

    (folder / "shar").mkdir(parents=True)
    with SharWriter(folder / "shar", fields={"recording": audio}, shard_size=per_shard) as writer:
        for clip in clips:
            path = folder / f"{clip.key}.{clip.suffix}"
            path.write_bytes(clip.data)
            cut = lhotse.Recording.from_file(path, recording_id=f"rec-{clip.key}").to_cut().with_id(clip.key)
            cut.supervisions = [
                lhotse.SupervisionSegment(
                    id=f"sup-{clip.key}",
                    recording_id=f"rec-{clip.key}",
                    start=0.0,
                    duration=clip.length_s,
                    text=clip.text,
                    language="en",
                    speaker="s1",
                )
            ]
            writer.write(cut)
    return folder / "shar"


def as_parquet(clips: Sequence[Clip], folder: Path, per_group: int = 2) -> Path:
    """Parquet with the audio in it, in two files, by datasets' own writer."""
    import datasets

    datasets.disable_progress_bars()
    (folder / "data").mkdir(parents=True)
    rows = {
        "id": [clip.key for clip in clips],
        "audio": [{"bytes": clip.data, "path": f"{clip.key}.{clip.suffix}"} for clip in clips],
        "sentence": [clip.text for clip in clips],
    }
    table = datasets.Dataset.from_dict(rows).cast_column("audio", datasets.Audio(decode=False))
    for n in range(2):
        shard = table.shard(2, n, contiguous=True)
        shard.to_parquet(str(folder / "data" / f"train-{n:05d}-of-00002.parquet"), batch_size=per_group)
    return folder
