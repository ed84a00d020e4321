"""Sound files of many kinds, and what chance makes of them."""

from __future__ import annotations

import numpy as np
from made_audio import encode, signal

LENGTH_S = 3
SEEDS = {
    "wav": (16_000, "wav", "pcm_s16le"),
    "adpcm": (8_000, "wav", "adpcm_ima_wav"),
    "flac": (16_000, "flac", "flac"),
    "mp3": (22_050, "mp3", "libmp3lame"),
    "opus": (48_000, "ogg", "libopus"),
    "webm": (48_000, "webm", "libopus"),
    "m4a": (22_050, "mp4", "aac"),
    "adts": (22_050, "adts", "aac"),
    "ts": (22_050, "mpegts", "aac"),
    "wma": (22_050, "asf", "wmav2"),
    "aiff": (16_000, "aiff", "pcm_s16be"),
    "avi": (22_050, "avi", "libmp3lame"),
}


def whole(name: str) -> bytes:
    """A sound file of a kind."""
    rate_hz, container, codec = SEEDS[name]
    bit_rate = None if codec.startswith(("pcm", "flac", "adpcm")) else 48_000
    return encode(signal(LENGTH_S, rate_hz), rate_hz, container, codec, bit_rate=bit_rate)


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
