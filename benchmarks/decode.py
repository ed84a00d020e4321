"""How fast audio becomes samples, and what the sandbox costs: `python benchmarks/decode.py`, about two minutes.

Audio seconds per CPU second for ten minutes of each codec: Quarry's reader (its own process and the decoder's), the ffmpeg
program with its own resampler, and libsndfile with soxr in one process, all to 16 kHz mono int16. Then clips of 10 s through
the sandbox, announced as a run does it, against the same reader that decodes in its own process: samples alone, and windows with
voice activity detection and cutting, which is what a run does with each clip.
All on one CPU, which is what a decode worker books. CPU time of all processes, and wall time; medians, and medians of the ratios
of neighbours in time. Every decoder uses one thread.
"""

from __future__ import annotations

import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from corpus import SPEECH

from pipeline.audio import decode
from pipeline.audio.fetch import Blob
from pipeline.audio.reader import AudioReader
from pipeline.audio.sandbox import Decoder, SampleBuffer
from pipeline.audio.window import clip, decode_window
from pipeline.audio.wire import Request
from pipeline.config import ChunkConfig, DecodeConfig, PlanConfig, SourceConfig
from pipeline.records import Recording, Window

AUDIO_S, CLIP_S, ROUNDS = 600, 10, 3
BURST, PAIRS = 48, 15

# name -> (file, channels, ffmpeg options)
CODECS = {
    "wav 16 kHz mono": ("a.wav", 1, "-ar 16000"),
    "wav 8 kHz mono mu-law": ("j.wav", 1, "-ar 8000 -c:a pcm_mulaw"),
    "wav 44.1 kHz stereo": ("k.wav", 2, "-ar 44100"),
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
            f"\n| {CLIP_S} s clips of | CPU ms, with and without sandbox | CPU | wall | with VAD and chunks | CPU | wall |"
        )
        print("|---|---|---|---|---|---|---|")
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
        sandboxed, inside = (AudioReader(DecodeConfig(), SourceConfig(), [name]) for _ in range(2))
        inside._decoder = Inside(0, 1, 1)
        with sandboxed, inside:
            for codec, (file, _, _) in CODECS.items():
                print(overhead(sandboxed, inside, codec, folder / f"clip-{file}"), flush=True)


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
        elsewhere_s = 0.0 if reports[-1].decoder == "none" else reports[-1].decode_s
        return cpu_s() - begun + elsewhere_s

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


class Inside(Decoder):
    """A decoder without a process of its own: what the sandbox is measured against."""

    def call(self, request: Request, blob: Blob, buffer: SampleBuffer, deadline_s: float) -> dict[str, Any]:
        """Decode here and now."""
        begun_s = time.thread_time()
        report = decode.answer(request, blob, buffer)
        return {**report, "decode_s": time.thread_time() - begun_s}


def overhead(sandboxed: AudioReader, inside: AudioReader, codec: str, path: Path) -> str:
    """One row: a clip with the sandbox and without, by the same reader, turn by turn; alone and as windows of a run."""
    window = Window(Recording("x", str(path)), 0, 1, 0.0, CLIP_S, open_end=False)
    stretch = clip(window)
    assert stretch is not None

    def samples(reader: AudioReader) -> None:
        for _ in range(BURST):
            reader.read(*stretch[:3], expect=stretch.expect)

    def windows(reader: AudioReader) -> None:
        for _ in range(BURST):
            decode_window(reader, window, PlanConfig(), ChunkConfig(), 30.0)

    def spent(reader: AudioReader, use: Callable[[AudioReader], None]) -> tuple[float, float]:
        """CPU and wall milliseconds a clip, both processes."""
        begun_s, wall_s = cpu_s() + child_cpu_s(reader.decoder_pid), time.perf_counter()
        if reader is sandboxed:
            reader.announce([stretch] * BURST)
        use(reader)
        wall_s = time.perf_counter() - wall_s
        return 1000 / BURST * (cpu_s() + child_cpu_s(reader.decoder_pid) - begun_s), 1000 / BURST * wall_s

    cells = []
    for use, pairs in ((samples, PAIRS), (windows, PAIRS // 3)):
        use(sandboxed), use(inside)
        turns = [(*spent(sandboxed, use), *spent(inside, use)) for _ in range(pairs)]
        out_cpu, _, in_cpu, _ = (statistics.median(column) for column in zip(*turns, strict=True))
        cpu, wall = (statistics.median(turn[at] / turn[at + 2] for turn in turns) - 1 for at in (0, 1))
        cells.append(f"{out_cpu:.2f} / {in_cpu:.2f} | {100 * cpu:+.0f} % | {100 * wall:+.0f} %")
    return f"| {codec} | {' | '.join(cells)} |"


def child_cpu_s(pid: int | None) -> float:
    """CPU seconds of another process so far, to the nanosecond; 0 where there is none."""
    if pid is None:
        return 0.0
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def cpu_s(who: int = resource.RUSAGE_SELF) -> float:
    """CPU seconds so far."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    main()
