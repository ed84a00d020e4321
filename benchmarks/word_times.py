"""How far an engine's word times lie from aligned references: mean absolute error of where words start and end.

    python benchmarks/word_times.py --data FOLDER [--engine whisper] [--model tiny.en] [--options '{"word_times": true}']

FOLDER holds recordings and alignments (the test data of the repository's authors). Words are paired with the reference's
where the edit alignment of both texts finds them equal; a word that was heard otherwise has no time to compare.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import jiwer
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from pipeline.config import EngineConfig
from pipeline.engines.base import Engine, create_engine
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis, Samples, Word

# Set → (alignments as CTM files, folders that hold their audio).
SETS = {
    "read speech, machine alignment, 10 ms": ("g/hmm-align/*.ctm", ("a/*",)),
    "meetings, corrected by hand": ("c/ami/*.ctm", ("c/ami",)),
}
NEAR_S = 0.2
LONGEST_S = 30.0  # of Whisper's chunks


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording and when its words are said."""

    name: str
    samples: Samples
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Deviations:
    """Given minus true seconds of every word that both heard; `words`: in the reference."""

    starts_s: npt.NDArray[np.float64]
    ends_s: npt.NDArray[np.float64]
    words: int


def clips_of(data: Path, name: str, at_most: int | None = None) -> Iterator[Clip]:
    """The clips of one of SETS: at most 30 s of each, 16 kHz mono."""
    pattern, folders = SETS[name]
    words: dict[str, list[Word]] = defaultdict(list)
    for path in sorted(data.glob(pattern)):
        for line in path.read_text().splitlines():
            recording, _, start, length, text = line.split()
            words[recording].append(Word(text, float(start), float(start) + float(length)))
    audio = {path.stem: path for folder in folders for path in data.glob(f"{folder}/*.flac")}
    for recording in sorted(set(words) & set(audio))[:at_most]:
        samples, rate_hz = soundfile.read(audio[recording], dtype="int16")
        if rate_hz != SAMPLE_RATE_HZ:
            samples = soxr.resample(samples, rate_hz, SAMPLE_RATE_HZ)
        samples = samples[: round(LONGEST_S * SAMPLE_RATE_HZ)]
        said = sorted(words[recording], key=lambda word: word.start_s or 0.0)
        yield Clip(recording, samples, tuple(word for word in said if (word.end_s or 0.0) <= LONGEST_S))


def deviations(clips: Sequence[Clip], heard: Sequence[Hypothesis]) -> Deviations:
    """How far each word's start and end lie from the reference's."""
    starts_s: list[float] = []
    ends_s: list[float] = []
    for clip, hypothesis in zip(clips, heard, strict=True):
        given = [word for segment in hypothesis.segments for word in segment.words] or list(hypothesis.words)
        for true, found in _pairs(clip.words, given):
            if found.start_s is not None and true.start_s is not None:
                starts_s.append(found.start_s - true.start_s)
            if found.end_s is not None and true.end_s is not None:
                ends_s.append(found.end_s - true.end_s)
    return Deviations(np.array(starts_s), np.array(ends_s), sum(len(clip.words) for clip in clips))


def _pairs(true: Sequence[Word], given: Sequence[Word]) -> Iterator[tuple[Word, Word]]:
    given = [word for word in given if _spelled(word)]
    if not given:
        return
    compared = jiwer.process_words(" ".join(map(_spelled, true)), " ".join(map(_spelled, given)))
    for part in compared.alignments[0]:
        if part.type == "equal":
            true_words = true[part.ref_start_idx : part.ref_end_idx]
            yield from zip(true_words, given[part.hyp_start_idx : part.hyp_end_idx], strict=True)


def _spelled(word: Word) -> str:
    return "".join(character for character in word.word.lower() if character.isalnum() or character == "'")


def table_row(name: str, measured: Deviations) -> str:
    """A line of Markdown."""
    starts_s, ends_s = np.abs(measured.starts_s), np.abs(measured.ends_s)
    columns = [name, f"{len(starts_s):,} of {measured.words:,}"]
    for errors_s in (starts_s, ends_s):
        columns += [f"{errors_s.mean() * 1000:.0f} ms", f"{np.median(errors_s) * 1000:.0f} ms"]
        columns += [f"{np.mean(errors_s <= NEAR_S):.1%}"]
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Print a Markdown table: a line for each set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--engine", default="whisper")
    parser.add_argument("--model", default="tiny.en")
    parser.add_argument("--options", type=json.loads, default={"word_times": True})
    arguments = parser.parse_args()
    engine: Engine = create_engine(
        EngineConfig(name=arguments.engine, model=arguments.model, language="en", options=arguments.options)
    )
    engine.load()
    print("| words of | paired | start: mean | median | within 0.2 s | end: mean | median | within 0.2 s |")
    print("|---|---|---|---|---|---|---|---|")
    for name in SETS:
        clips = list(clips_of(arguments.data, name))
        if clips:
            heard = engine.transcribe([ChunkAudio(clip.samples, "en") for clip in clips])
            print(table_row(name, deviations(clips, heard)), flush=True)
    engine.close()


if __name__ == "__main__":
    main()
