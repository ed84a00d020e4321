"""Hostile media through the real command: `python tests/fuzz/media.py --files 5000` prints what became of each kind, by code.

Mutants of twelve kinds of container, and files made to do harm: bombs, lying headers, playlists, odd rates and channel counts,
numbers that are none. Every file has to come out as a row with a status and, where it failed, a code; no worker may die.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPO), str(REPO / "tests" / "audio"), str(REPO / "tests" / "end_to_end")]

import numpy as np  # noqa: E402
import soundfile  # noqa: E402
from damaged_audio import LENGTH_S as LENGTH_S  # noqa: E402
from damaged_audio import SEEDS, mutant, whole  # noqa: E402
from made_audio import signal  # noqa: E402
from running import fake_settings, quarry, table  # noqa: E402

BOMB_S = 3 * 3600  # longer than the run below accepts
LIMIT_S = 3600


@dataclass(frozen=True)
class Outcome:
    """What a run over hostile files came to."""

    rows: list[dict[str, Any]]
    files: int
    returncode: int
    wall_s: float
    stderr: str


def made() -> Iterator[tuple[str, bytes]]:
    """Files that mean harm: name and content."""
    wav = whole("wav")
    yield "empty", b""
    yield "zeros", bytes(100_000)
    yield "text", b"this is no audio, whatever its name says. " * 500
    yield "html", b"<!DOCTYPE html><html><body>404</body></html>"
    yield "playlist-m3u8", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n"
    yield "playlist-concat", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "playlist-sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9 RTP/AVP 0\n"
    yield "playlist-pls", b"[playlist]\nFile1=http://127.0.0.1:9/a.mp3\nNumberOfEntries=1\n"
    yield "svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://127.0.0.1:9/'/></svg>"
    yield "zip", b"PK\x03\x04" + bytes(500)
    yield "executable", b"\x7fELF" + bytes(500)
    yield "bomb-flac", _flac_bomb()
    for rate_hz in (0, 1, 7, 50, 999_999, 2**31 - 1, 2**32 - 1):
        yield f"wav-rate-{rate_hz}", _with_field(wav, 24, "<I", rate_hz)
    for channels in (0, 3, 255, 257, 65_535):
        yield f"wav-channels-{channels}", _with_field(wav, 22, "<H", channels)
    for bits in (0, 1, 7, 24, 64, 65_535):
        yield f"wav-bits-{bits}", _with_field(wav, 34, "<H", bits)
    for size in (0, 1, 2**31 - 1, 2**32 - 1):
        yield f"wav-claims-{size}", _with_field(wav, wav.index(b"data") + 4, "<I", size)
    for name, value in (("nan", np.nan), ("inf", np.inf), ("huge", 3e38), ("denormal", 1e-42)):
        yield f"float-{name}", _float_wav(value)
    yield "id3-only", b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f"
    yield "id3-in-id3", b"ID3\x04\x00\x00\x00\x00\x00\x0a" * 1_000 + whole("mp3")
    yield "mp4-inside-itself", b"".join(struct.pack(">I4s", 8 + 8 * (40 - n), b"moov") for n in range(40))
    yield "ogg-endless-pages", b"OggS\x00\x02" + bytes(8) + b"\x01\x00\x00\x00" * 4_000


def _with_field(data: bytes, at: int, form: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


def _float_wav(value: float) -> bytes:
    samples = signal(1.0, 16_000)
    samples[1_000:1_200] = value
    out = BytesIO()
    soundfile.write(out, samples, 16_000, format="WAV", subtype="FLOAT")
    return out.getvalue()


def _flac_bomb() -> bytes:
    """Hours of silence in a few kB."""
    out = BytesIO()
    with soundfile.SoundFile(out, "w", 8_000, 1, format="FLAC") as file:
        for _ in range(BOMB_S // 60):
            file.write(np.zeros(60 * 8_000, np.int16))
    return out.getvalue()


def fuzz(folder: Path, mutants: int, first_seed: int = 1) -> Outcome:
    """Make the files and run over them, in one process with its decoder."""
    archive = folder / "archive"
    archive.mkdir(parents=True)
    names = []
    for name, data in made():
        (archive / name).write_bytes(data)
        names.append(name)
    wholes = {kind: whole(kind) for kind in SEEDS}
    for number in range(mutants):
        kind = list(SEEDS)[number % len(SEEDS)]
        random = np.random.default_rng([first_seed, number])
        name = f"{kind}-mutant-{number:05d}"
        (archive / name).write_bytes(mutant(wholes[kind], random))
        names.append(name)
    rows = [{"id": name, "audio_filepath": name} for name in names]
    (archive / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = fake_settings(
        archive / "manifest.jsonl",
        folder / "out",
        **{
            "decode.max_audio_s": LIMIT_S,
            "decode.timeout_s": 20,
            "decode.timeout_per_audio_s": 0,
            "plan.shard_s": 1800,
        },
    )
    begun = time.monotonic()
    done = quarry("run", *settings)
    wall_s = time.monotonic() - begun
    found = table(folder / "out").to_pylist() if done.returncode in (0, 1) else []
    return Outcome(found, len(names), done.returncode, wall_s, done.stderr)


def by_kind(rows: list[dict[str, Any]]) -> dict[str, Counter[str]]:
    """For each kind of file, how many rows have which status or code."""
    found: dict[str, Counter[str]] = {}
    for row in rows:
        kind = row["id"].split("-mutant-")[0] if "-mutant-" in row["id"] else "made to do harm"
        code = f": {row['failure']['code']}" if row["failure"] else ""
        found.setdefault(kind, Counter())[row["status"] + code] += 1
    return found


def main() -> None:
    """Fuzz and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        outcome = fuzz(Path(name), args.files, args.seed)
    if not outcome.rows:
        sys.exit(f"The run ended with {outcome.returncode}: {outcome.stderr[-2000:]}")
    print("| kind | files | what became of them |\n|---|---|---|")
    for kind, codes in by_kind(outcome.rows).items():
        print(f"| {kind} | {codes.total()} | {', '.join(f'{code} {count}' for code, count in codes.most_common())} |")
    crashed = sum(row["failure"] is not None and row["failure"]["code"] == "decoder_crashed" for row in outcome.rows)
    hung = sum(row["failure"] is not None and row["failure"]["code"] == "decode_timeout" for row in outcome.rows)
    print(
        f"\n{outcome.files} files, {len(outcome.rows)} rows, {outcome.wall_s:.0f} s; the decoder died over {crashed} and was "
        f"stopped at its deadline over {hung}; the worker never died: {outcome.returncode in (0, 1)}"
    )
    sys.exit(len(outcome.rows) != outcome.files)


if __name__ == "__main__":
    main()
