"""Damaged media of every kind end as samples or as a failure of that object: no crash, no hang, no flood (F7, G5)."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from made_audio import encode, signal

from pipeline.audio.reader import AudioReader
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.errors import AudioError
from pipeline.records import Recording

LENGTH_S = 6
SEEDS = {
    "wav": (16000, "wav", "pcm_s16le"),
    "adpcm": (8000, "wav", "adpcm_ima_wav"),
    "flac": (16000, "flac", "flac"),
    "mp3": (22050, "mp3", "libmp3lame"),
    "opus": (48000, "ogg", "libopus"),
    "webm": (48000, "webm", "libopus"),
    "m4a": (22050, "mp4", "aac"),
    "adts": (22050, "adts", "aac"),
    "ts": (22050, "mpegts", "aac"),
    "wma": (22050, "asf", "wmav2"),
    "aiff": (16000, "aiff", "pcm_s16be"),
    "avi": (22050, "avi", "libmp3lame"),
}
ENDS = {
    "not_audio",
    "bad_header",
    "no_audio_stream",
    "unsupported_codec",
    "decode_error",
    "audio_too_long",
    "empty_file",
}


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    """One of: cut off, bits flipped, a stretch zeroed, doubled, or swapped for noise; the header more often than the rest."""
    changed = bytearray(data)
    reach = len(data) if random.random() < 0.5 else min(len(data), 200)
    at = int(random.integers(0, reach))
    length = int(random.integers(1, max(2, len(data) // 8)))
    match int(random.integers(0, 6)):
        case 0:
            del changed[at:]
        case 1:
            for place in random.integers(0, reach, 8):
                changed[place] ^= 1 << int(random.integers(0, 8))
        case 2:
            changed[at : at + length] = bytes(length)
        case 3:
            changed[at:at] = changed[at : at + length]
        case 4:
            changed[at : at + length] = random.bytes(length)
        case _:
            del changed[at : at + length]
    return bytes(changed)


@pytest.mark.parametrize("mutants", [12, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SEEDS)
def test_no_damage_reaches_the_reader(name: str, mutants: int, tmp_path: Path) -> None:
    rate, container, codec = SEEDS[name]
    bit_rate = None if codec.startswith(("pcm", "flac", "adpcm")) else 48_000
    whole = encode(signal(LENGTH_S, rate), rate, container, codec, bit_rate=bit_rate)
    random = np.random.default_rng(len(name) + 1000 * mutants)
    config = DecodeConfig(timeout_s=10, timeout_per_audio_s=0, max_audio_s=3600)
    with AudioReader(config, SourceConfig(), [str(tmp_path)]) as reader:
        for number in range(mutants):
            path = tmp_path / f"{number}.bin"
            path.write_bytes(mutant(whole, random))
            recording, begun = Recording("x", str(path)), time.monotonic()
            for ask in (
                lambda r=recording: reader.read(r, 0, None),
                lambda r=recording: reader.read(r, 3, 5),
                lambda r=recording: reader.probe(r),
            ):
                try:
                    ask()
                except AudioError as error:
                    code = error.code
                    assert code in ENDS, (number, code)
            assert time.monotonic() - begun < 10
            path.unlink()
