"""How often quality flags are set on recorded speech of known kinds: false alarms where all is well, finds where it is not.

    python benchmarks/flags.py --data FOLDER [--model tiny.en] [--only NAME ...]

FOLDER holds recordings by kind (the test data of the repository's authors); kinds that are missing are left out.
"""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path

from pipeline.audio.reader import AudioReader
from pipeline.audio.window import decode_window
from pipeline.config import ChunkConfig, DecodeConfig, EngineConfig, PlanConfig, ScoreConfig, SourceConfig
from pipeline.engines.base import Engine, create_engine
from pipeline.records import (
    Chunk,
    ChunkAudio,
    EngineStats,
    Recording,
    Shard,
    TranscribedShard,
    Transcript,
    Window,
)
from pipeline.text.transcript import transcripts_of

NOT_SPEECH = ("e/music/*", "e/noise/*", "e/silence/*")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {  # name: chunk.vad and where its files are
    "read English": ("silero", ("a/librispeech-test-other/*", "a/librispeech-test-clean/*", "a/ljspeech/*")),
    "telephone prompts": ("silero", ("e/asterisk-8k/en/*",)),
    "kitchen noise of 20 to 0 dB": ("silero", ("e/noisy/*",)),
    "telephone": ("silero", ("e/telephone/*",)),
    "two speakers at once": ("silero", ("e/overlap/*",)),
    "meetings": ("silero", ("c/ami/*",)),
    "digits": ("silero", ("e/fsdd-8k/*",)),
    "other languages": ("silero", ("b/*/*",)),
    "music, noise, silence": ("silero", NOT_SPEECH),
    "music, noise, silence, no detection": ("none", NOT_SPEECH),
    "music and noise, energy detection": ("energy", NOT_SPEECH[:2]),
}
SUFFIXES = (".flac", ".wav", ".mp3", ".opus")


def main() -> None:
    """Print a Markdown table: a line for each kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--only", nargs="*", default=list(KINDS), choices=list(KINDS))
    arguments = parser.parse_args()
    engine = create_engine(EngineConfig(model=arguments.model, options={"beam_size": 1}))
    engine.load()
    print("| audio | minutes | chunks | flagged | flags |\n|---|---|---|---|---|")
    with AudioReader(DecodeConfig(), SourceConfig(), [str(arguments.data)]) as reader:
        for name in arguments.only:
            vad, patterns = KINDS[name]
            files = sorted(path for pattern in patterns for path in arguments.data.glob(pattern))
            files = [path for path in files if path.suffix in SUFFIXES]
            if files:
                print(
                    line(
                        name,
                        [transcribe(path, reader, engine, ChunkConfig.model_validate({"vad": vad})) for path in files],
                    ),
                    flush=True,
                )


def transcribe(path: Path, reader: AudioReader, engine: Engine, chunking: ChunkConfig) -> tuple[Transcript, int]:
    """The recording's row, as a run would write it, and its number of chunks."""
    window = Window(Recording(path.name, str(path)), 0, 1, 0.0, 0.0)
    decoded, samples, cuts = decode_window(reader, window, PlanConfig(), chunking, engine.spec.max_chunk_s)
    chunks = tuple(
        Chunk(0, index, start / 16_000, stop / 16_000, start, stop - start, speech_s)
        for index, (start, stop, speech_s, _) in enumerate(cuts)
    )
    heard = engine.transcribe([ChunkAudio(samples[start:stop]) for start, stop, *_ in cuts])
    shard = Shard("00000-00", 0, (window,), decoded.end_s)
    (row,) = transcripts_of(TranscribedShard(shard, (decoded,), chunks, tuple(heard), EngineStats()), ScoreConfig())
    return row, len(chunks)


def line(name: str, rows: list[tuple[Transcript, int]]) -> str:
    """Chunks (for this engine a segment or a span each), how many are flagged, and with what."""
    found: list[tuple[str, ...]] = [one.flags for row, _ in rows for one in row.segments]
    found += [("empty_on_speech",) for row, _ in rows for span in row.spans if span.kind == "unheard"]
    flags = Counter(flag for each in found for flag in each)
    counts = ", ".join(f"{flag} {count}" for flag, count in flags.most_common())
    minutes = sum(row.duration_s for row, _ in rows) / 60
    return f"| {name} | {minutes:.1f} | {sum(count for _, count in rows)} | {sum(map(bool, found))} | {counts} |"


if __name__ == "__main__":
    main()
