"""How fast audio becomes samples, and what the sandbox costs: `python benchmarks/decode.py`, about two minutes.

Audio seconds per CPU second for ten minutes of each codec: Quarry's reader (its own process and the decoder's), the ffmpeg
program with its own resampler, and libsndfile with soxr in one process, all to 16 kHz mono int16. Then clips of 10 s through
the sandbox against the same decoding in one process.
Medians of CPU time, which neighbours on the machine disturb less than wall time; every decoder uses one thread.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import soxr
from corpus import SPEECH

from pipeline.audio import decode
from pipeline.audio.reader import AudioReader
from pipeline.audio.wire import Request
from pipeline.config import DecodeConfig, SourceConfig
from pipeline.records import Recording

AUDIO_S, CLIP_S, ROUNDS = 600, 10, 3
BURST, PAIRS = 10, 30

# name -> (file, channels, ffmpeg options)
CODECS = {
    "wav 16 kHz mono": ("a.wav", 1, "-ar 16000"),
    "flac 16 kHz mono": ("b.flac", 1, "-ar 16000"),
    "flac 44.1 kHz stereo": ("c.flac", 2, "-ar 44100"),
    "mp3 44.1 kHz mono 64k": ("d.mp3", 1, "-ar 44100 -b:a 64k"),
    "mp3 44.1 kHz stereo 128k": ("e.mp3", 2, "-ar 44100 -b:a 128k"),
    "aac 44.1 kHz stereo 128k": ("f.m4a", 2, "-ar 44100 -b:a 128k"),
    "opus mono 24k": ("g.opus", 1, "-c:a libopus -b:a 24k"),
    "opus stereo 96k": ("h.opus", 2, "-c:a libopus -b:a 96k"),
    "vorbis 48 kHz stereo": ("i.ogg", 2, "-c:a libvorbis -q:a 4"),
}


def main() -> None:
    """Make the material, measure, print two tables in Markdown."""
    if shutil.which("ffmpeg") is None:
        sys.exit("This comparison needs the ffmpeg program; install it and run again.")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_material(folder)
        print(
            f"| {AUDIO_S // 60} min of | Quarry | decoder | ffmpeg program | libsndfile + soxr | Quarry / best other |"
        )
        print("|---|---|---|---|---|---|")
        with AudioReader(DecodeConfig(), SourceConfig(), [name]) as reader:
            for codec, (file, _, _) in CODECS.items():
                print(compare(reader, codec, folder / file), flush=True)
        print(
            f"\n| {CLIP_S} s clips of | sandbox, CPU ms a clip | one process, CPU ms a clip | overhead |\n|---|---|---|---|"
        )
        with AudioReader(DecodeConfig(), SourceConfig(), [name]) as reader:
            for codec, (file, _, _) in CODECS.items():
                print(overhead(reader, codec, folder / f"clip-{file}"), flush=True)


def make_material(folder: Path) -> None:
    """Ten minutes and ten seconds of every codec: looped speech, its second channel softer and 7 ms late."""
    speech, rate_hz = soundfile.read(SPEECH, dtype="float32")
    speech = soxr.resample(np.resize(speech, AUDIO_S * rate_hz), rate_hz, 48_000)
    stereo = np.stack([speech, 0.8 * np.roll(speech, 336)], axis=1)
    soundfile.write(folder / "source.wav", stereo, 48_000, subtype="PCM_16")
    for file, channels, options in CODECS.values():
        for length, target in ((AUDIO_S, file), (CLIP_S, f"clip-{file}")):
            command = [
                "ffmpeg",
                "-v",
                "error",
                "-y",
                "-i",
                str(folder / "source.wav"),
                "-t",
                str(length),
                "-ac",
                str(channels),
            ]
            subprocess.run([*command, *options.split(), str(folder / target)], check=True)


def compare(reader: AudioReader, codec: str, path: Path) -> str:
    """One row: audio seconds per CPU second of every way."""
    recording = Recording("x", str(path))
    reports = []

    def by_reader() -> float:
        begun = cpu_s()
        reports.append(reader.read(recording, 0, None).report)
        return cpu_s() - begun + reports[-1].decode_s

    ours = AUDIO_S / statistics.median(by_reader() for _ in range(ROUNDS))
    program = AUDIO_S / statistics.median(by_ffmpeg(path) for _ in range(ROUNDS))
    library = by_libsndfile(path)
    others = [program] + ([library] if library else [])
    shown = f"{library:,.0f}" if library else "cannot read it"
    return f"| {codec} | {ours:,.0f} | {reports[-1].decoder} | {program:,.0f} | {shown} | {ours / max(others):.2f} |"


def by_ffmpeg(path: Path) -> float:
    """CPU seconds of the ffmpeg program."""
    before = cpu_s(resource.RUSAGE_CHILDREN)
    command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-i", str(path), "-ac", "1", "-ar", "16000"]
    subprocess.run([*command, "-f", "s16le", "-y", "/dev/null"], check=True)
    return cpu_s(resource.RUSAGE_CHILDREN) - before


def by_libsndfile(path: Path) -> float | None:
    """Audio seconds per CPU second of libsndfile and soxr, where they read the file."""

    def once() -> float:
        begun = cpu_s()
        with soundfile.SoundFile(path) as file:
            stream = soxr.ResampleStream(file.samplerate, 16_000, 1, "float32", quality="HQ")
            while len(block := file.read(200_000, dtype="float32", always_2d=True)):
                mono = block.mean(axis=1) if block.shape[1] > 1 else block[:, 0]
                mono = mono if file.samplerate == 16_000 else stream.resample_chunk(mono)
                np.clip(np.rint(mono * 32768), -32768, 32767).astype(np.int16)
        return cpu_s() - begun

    try:
        return AUDIO_S / statistics.median(once() for _ in range(ROUNDS))
    except soundfile.SoundFileError:
        return None


def overhead(reader: AudioReader, codec: str, path: Path) -> str:
    """One row: CPU milliseconds of a clip through the sandbox (both processes) and in this process, turn by turn."""
    recording = Recording("x", str(path))
    request = Request(end=CLIP_S * 16_000, limit=2**40)

    def sandboxed() -> float:
        begun = child_cpu_s(reader.decoder_pid)
        for _ in range(BURST):
            reader.read(recording, 0, CLIP_S)
        return child_cpu_s(reader.decoder_pid) - begun

    def direct() -> float:
        for _ in range(BURST):
            with _File(path) as source:
                decode.answer(request, source, _Kept())
        return 0.0

    reader.read(recording, 0, CLIP_S)
    pairs = [(spent(sandboxed), spent(direct)) for _ in range(PAIRS)]
    outside, inside = (1000 / BURST * statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    return f"| {codec} | {outside:.2f} | {inside:.2f} | {100 * (ratio - 1):+.0f} % |"


def child_cpu_s(pid: int | None) -> float:
    """CPU seconds of another process so far, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def spent(action: Callable[[], float]) -> float:
    """CPU seconds of this process, and what the action says another one spent."""
    begun = cpu_s()
    elsewhere = action()
    return cpu_s() - begun + elsewhere


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds so far."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


class _File:
    """A local file as the decoder wants it."""

    def __init__(self, path: Path) -> None:
        self._fd, self.size = os.open(path, os.O_RDONLY), path.stat().st_size

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def pread(self, offset: int, length: int) -> bytes:
        return os.pread(self._fd, length, offset)


class _Kept:
    """Takes samples in, as a caller would."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []

    def write(self, pcm: memoryview) -> None:
        self.parts.append(bytes(pcm))

    def restart(self) -> None:
        self.parts.clear()


if __name__ == "__main__":
    main()
