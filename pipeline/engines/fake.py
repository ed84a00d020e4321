"""A recogniser without a model: words chosen by the samples, at a settable speed, with settable faults.

For tests and benchmarks of everything else. Like an accelerator it has one device with one owner at a time, and device
time grows with the padded length of a batch. It knows nothing about speech.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from pydantic import Field

from pipeline.batching import padded_s
from pipeline.config import EngineConfig, Section
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.options import read_options
from pipeline.errors import EngineDead, EngineError, EngineOutOfMemory
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis, Samples, Segment, Word

_WORDS = ("amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "harbor", "inlet", "jetty", "kelp", "larch")
_BLOCK = SAMPLE_RATE_HZ // 2  # two words a second, about the pace of speech
_LEAKED: list[bytes] = []
_SILENT_PEAK = 32  # -60 dBFS


class FakeOptions(Section):
    """Speed and faults of the fake engine."""

    seconds_per_audio_s: float = Field(0.0, ge=0, description="device seconds per padded second of audio")
    batch_overhead_s: float = Field(0.0, ge=0, description="device seconds per batch")
    host_s: float = Field(0.0, ge=0, description="preparation per batch, outside the device")
    padding: Literal["none", "longest", "fixed"] = Field("longest", description="what a batch is padded to")
    max_chunk_s: float = Field(30.0, gt=0, description="longest chunk")
    languages: list[str] | None = Field(None, description="languages it claims; null: any")
    translates_into: list[str] = Field(
        [], description="languages it claims to translate into: its words end in -en, say"
    )
    speakers: int = Field(0, ge=0, description="people who take turns, one word each; 0: it tells none apart")
    oom_above_s: float | None = Field(None, gt=0, description="padded seconds per batch above which memory runs out")
    fail_on_peak: int | None = Field(None, description="a chunk whose loudest sample is this value breaks its batch")
    poison_on_peak: int | None = Field(None, description="a chunk whose loudest sample is this value ends the process")
    poison: Literal["segfault", "exit", "kill", "loop"] = Field(
        "segfault", description="how it ends: kill is what the kernel does where memory runs out, loop never comes back"
    )
    diary: str | None = Field(None, description="a file that gets a line for each chunk that comes in (ChunkNote)")
    leak_bytes: int = Field(0, ge=0, description="memory that each call takes and the process never gives back")
    die_on_call: int | None = Field(None, ge=1, description="the call (from 1) on which the engine dies")
    hang_on_call: int | None = Field(None, ge=1, description="the call (from 1) that takes hang_s")
    hang_s: float = Field(3600.0, ge=0, description="see hang_on_call")
    fault_once: str | None = Field(None, description="die and hang only while this file is missing; made by the fault")


class ChunkNote(NamedTuple):
    """A chunk that came into an engine: which process had it and in which of its calls, how long it is, which samples."""

    pid: int
    call: int
    audio_s: float
    digest: str

    @classmethod
    def of(cls, chunk: ChunkAudio, call: int) -> ChunkNote:
        """Written down before anything is done with it: the process may not live to tell."""
        return cls(os.getpid(), call, chunk.audio_s, hashlib.sha256(chunk.samples.astype("<i2").tobytes()).hexdigest())

    def line(self) -> str:
        """As it stands in the diary."""
        return f"{self.pid} {self.call} {self.audio_s} {self.digest}\n"

    @classmethod
    def read(cls, diary: Path) -> list[ChunkNote]:
        """All that is noted there."""
        lines = diary.read_text().splitlines() if diary.exists() else []
        return [
            cls(int(pid), int(call), float(audio_s), digest) for pid, call, audio_s, digest in map(str.split, lines)
        ]


class Fake:
    """The fake engine. `busy_s`: device seconds so far, for benchmarks of saturation; `calls`: calls so far."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self.busy_s = 0.0
        self.calls = 0
        self._language, self._task = config.language, config.task
        self._options = read_options(FakeOptions, config)
        self._device = threading.Lock()

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Any model's name will do. Raises ConfigError for unknown options."""
        options = read_options(FakeOptions, config)
        per_s = options.seconds_per_audio_s
        languages = None if options.languages is None else frozenset(map(primary_language, options.languages))
        into = {primary_language(target): languages for target in options.translates_into}
        return EngineSpec(
            name="fake",
            model=config.model,
            revision=config.revision or "1",
            languages=languages,
            tasks=frozenset({"transcribe", "translate"} if into else {"transcribe"}),
            features=frozenset({"speakers", "word_times"} if options.speakers else ()),
            max_chunk_s=options.max_chunk_s,
            padding=options.padding,
            rtfx_per_worker=1 / per_s if per_s else 10_000.0,
            licence="Apache-2.0",
            row_tasks={"transcribe": languages, **into} if into else {},
        )

    def load(self) -> None:
        """There is nothing to load."""

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """Words that depend on the samples of the chunk alone. Raises ValueError and, as told, the engine errors."""
        audio_s = np.array([chunk.audio_s for chunk in chunks], np.float64)
        if len(chunks) and audio_s.max() > self.spec.max_chunk_s:
            raise ValueError(f"a chunk of {audio_s.max():.2f} s is longer than {self.spec.max_chunk_s} s")
        time.sleep(self._options.host_s)
        seconds = padded_s(audio_s, np.arange(len(chunks)), self.spec.padding, self.spec.max_chunk_s)
        with self._device:
            self.calls += 1
            self._misbehave(chunks, seconds)
            device_s = self._options.batch_overhead_s + seconds * self._options.seconds_per_audio_s
            time.sleep(device_s)
            self.busy_s += device_s
        return [self._hear(chunk) for chunk in chunks]

    def close(self) -> None:
        """There is nothing to give back."""

    def _misbehave(self, chunks: Sequence[ChunkAudio], seconds: float) -> None:
        options = self._options
        if options.diary is not None:
            with open(options.diary, "a") as diary:
                diary.write("".join(ChunkNote.of(chunk, self.calls).line() for chunk in chunks))
        if options.leak_bytes:
            _LEAKED.append(b"\1" * options.leak_bytes)
        if options.oom_above_s is not None and seconds > options.oom_above_s:
            raise EngineOutOfMemory()
        if options.poison_on_peak is not None and any(
            _peak(chunk.samples) == options.poison_on_peak for chunk in chunks
        ):
            _end(options.poison)
        if options.fail_on_peak is not None and any(_peak(chunk.samples) == options.fail_on_peak for chunk in chunks):
            raise EngineError("engine_error", f"The fake engine was told to fail on a peak of {options.fail_on_peak}.")
        if self.calls == options.die_on_call and self._first_time():
            raise EngineDead(f"The fake engine was told to die on call {self.calls}.")
        if self.calls == options.hang_on_call and self._first_time():
            time.sleep(options.hang_s)

    def _first_time(self) -> bool:
        marker = self._options.fault_once
        if marker is None:
            return True
        try:
            Path(marker).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _hear(self, chunk: ChunkAudio) -> Hypothesis:
        blocks = [chunk.samples[start : start + _BLOCK] for start in range(0, len(chunk.samples), _BLOCK)]
        words = {position: _word(block) for position, block in enumerate(blocks) if _peak(block) > _SILENT_PEAK}
        if (chunk.task or self._task) == "translate":
            words = {position: f"{word}-{chunk.target_language or 'en'}" for position, word in words.items()}
        return Hypothesis(
            text=" ".join(words.values()),
            language=chunk.language or self._language,
            n_tokens=len(words),
            stop_reason="single_pass" if words else "silence",
            segments=tuple(self._turns(words, chunk.audio_s)) if self._options.speakers else (),
        )

    def _turns(self, words: dict[int, str], audio_s: float) -> Iterator[Segment]:
        """A segment for each word, of one speaker after the other."""
        for number, (position, text) in enumerate(words.items()):
            start_s = position * _BLOCK / SAMPLE_RATE_HZ
            end_s = min(start_s + _BLOCK / SAMPLE_RATE_HZ, audio_s)
            speaker = f"Speaker {number % self._options.speakers + 1}"
            word = Word(text, start_s, end_s, speaker=speaker)
            yield Segment(number, start_s, end_s, text, speaker=speaker, words=(word,))


def _end(how: str) -> None:
    if how == "loop":
        while True:
            time.sleep(1.0)
    if how == "exit":
        os._exit(1)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60.0)  # the signal may take another thread first
    ctypes.string_at(0)


def _peak(samples: Samples) -> int:
    return int(np.abs(samples.astype(np.int32)).max(initial=0))


def _word(samples: Samples) -> str:
    return _WORDS[hashlib.sha256(samples.astype("<i2").tobytes()).digest()[0] % len(_WORDS)]
