"""Batches for the Granite NAR benchmark: the seven-set mix, packed as Quarry packs it, or padded as others do.

Audio is noise, for the weights are random. The hypothesis is forced: a random draft head gives about 12.5 tokens per second,
which would make the editor's row twice as long as speech does. The head and its argmax run all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from clip_sets import Lengths, clips
from granite_nar_flops import Rows, StageFlops, useful_flops

from pipeline.batching import pack_batches
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.device import Plan
from pipeline.engines.granite_nar.model import Batch, Model
from pipeline.engines.granite_nar.packing import FramePacking, frames_of

SEED = 20_260
RATE_HZ = 16_000
LONGEST_S = 30.0
WINDOW_CLIPS = 8_192  # sorted and packed together
PADDED_CLIPS = 128

Form = Literal["packed", "padded", "editor packed"]
Ints = npt.NDArray[np.int64]
Samples = npt.NDArray[np.int16]


class Clips(NamedTuple):
    """Some clips, [B] each."""

    samples: Ints  # at 16 kHz
    rounding: Lengths  # in 0 … 1: whether a part of a token is one
    coin: Lengths  # in 0 … 1: who goes to the editor where not all do

    @property
    def audio_s(self) -> Lengths:
        """Their lengths in seconds."""
        return self.samples / RATE_HZ

    def of(self, rows: npt.NDArray[np.intp] | slice) -> Clips:
        """Some of them."""
        return Clips(self.samples[rows], self.rounding[rows], self.coin[rows])

    def tokens(self, per_s: float) -> Ints:
        """How many tokens the hypothesis of each clip is forced to."""
        return np.floor(self.audio_s * per_s + self.rounding).astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A batch to hear."""

    batch: Batch
    clips: Clips
    form: Form

    @property
    def audio_s(self) -> float:
        """Seconds of audio in it; padding is none."""
        return float(self.clips.audio_s.sum())

    @property
    def computed_s(self) -> float:
        """Seconds of audio that the encoder computes."""
        return float(self.batch.packing.frames.sum()) / 50


@dataclass(frozen=True, slots=True)
class Forced:
    """The hypothesis: tokens per second, and the share of clips that go to the editor."""

    tokens_per_s: float = 3.4
    edited: float = 1.0

    def plans(self, works: Iterable[Work], config: ModelConfig) -> dict[Batch, Plan]:
        """What becomes of every batch."""
        rng = np.random.default_rng(SEED)
        ids = rng.integers(0, config.editor.vocabulary - 1, 100_000)
        ids += ids >= config.blank_id
        plans = {}
        for work in works:
            tokens = work.clips.tokens(self.tokens_per_s)
            if work.form == "padded":
                tokens[:] = tokens.max(initial=0)
            chosen = np.flatnonzero(work.clips.coin < self.edited)
            starts = rng.integers(0, len(ids) - int(tokens.max(initial=0)), len(chosen))
            drafts = [ids[start : start + tokens[clip]] for clip, start in zip(chosen, starts, strict=True)]
            plans[work.batch] = Plan(chosen, drafts)
        return plans

    def flops(self, work: Work, config: ModelConfig) -> StageFlops:
        """What the true lengths of a batch need."""
        frames, slots = self._lengths(work, config)
        return useful_flops(config, frames, frames // config.projector.downsample, slots)

    def rows(self, work: Work, config: ModelConfig) -> Rows:
        """Rows of the products of a packed batch, as they are computed: windows of the projector are filled up."""
        frames, slots = self._lengths(work, config)
        window, downsample = config.projector.window, config.projector.downsample
        windows = int((-(-frames // window)).sum())
        audios = int((frames // downsample)[slots > 0].sum())
        return Rows(
            frames=int(frames.sum()),
            labels=int((-(-frames // config.encoder.pooling_window)).sum()),
            keys=windows * window,
            queries=windows * (window // downsample),
            positions=audios + int(slots.sum()),
            slots=int(slots.sum()),
        )

    def _lengths(self, work: Work, config: ModelConfig) -> tuple[Ints, Ints]:
        slots = np.maximum(2 * work.clips.tokens(self.tokens_per_s) + 1, config.min_slots)
        return frames_of(work.clips.samples), np.where(work.clips.coin < self.edited, slots, 0)


def draw_clips(count: int) -> Clips:
    """The first so many of the shuffled mix, cut at 30 s. Deterministic."""
    rng = np.random.default_rng(SEED)
    samples = np.round(clips()[:count].clip(max=LONGEST_S) * RATE_HZ).astype(np.int64)
    return Clips(samples, rng.random(len(samples)), rng.random(len(samples)))


def packed(model: Model, drawn: Clips, audio_s: float) -> list[Work]:
    """Batches of at most `audio_s` seconds, neighbours in length together, in random order."""
    works = []
    for begin in range(0, len(drawn.samples), WINDOW_CLIPS):
        window = drawn.of(slice(begin, begin + WINDOW_CLIPS))
        for rows in pack_batches(window.audio_s, max_audio_s=audio_s, max_chunks=WINDOW_CLIPS, padding="none"):
            members = window.of(rows)
            works.append(Work(model.pack(_noise(members.samples)), members, "packed"))
    return [works[place] for place in np.random.default_rng(SEED).permutation(len(works))]


def in_order(model: Model, drawn: Clips, form: Form, *, clips: int = PADDED_CLIPS) -> list[Work]:
    """Batches of so many clips in the order in which they are, computed by the same code.

    "padded": as if every clip were as long as the batch's longest. "editor packed": the same, but the editor gets true
    lengths, as in the published remote code.
    """
    works = []
    for begin in range(0, len(drawn.samples), clips):
        members = drawn.of(slice(begin, begin + clips))
        batch = model.pack(_noise(members.samples, 0 if form == "packed" else int(members.samples.max())))
        if form == "editor packed":
            frames = frames_of(members.samples)
            batch = replace(batch, packing=_keep_true_audio(batch.packing, frames, model.config))
        works.append(Work(batch, members, form))
    return works


def _keep_true_audio(packing: FramePacking, frames: Ints, config: ModelConfig) -> FramePacking:
    """Padded clips of which only the audio embeddings of the first `frames` reach the editor."""
    window, downsample = config.projector.window, config.projector.downsample
    embeddings = -(-packing.frames // window) * (window // downsample)
    starts = np.cumsum(embeddings) - embeddings
    audios = frames // downsample
    rows = [np.arange(start, start + kept) for start, kept in zip(starts, audios, strict=True)]
    return replace(packing, audio=np.concatenate(rows), audios=audios)


def _noise(samples: Ints, padded_to: int = 0) -> Sequence[Samples]:
    """Clips of so many samples, each with zeros up to `padded_to`."""
    rng = np.random.default_rng(SEED)
    noise = rng.integers(-8_000, 8_000, int(2 * LONGEST_S * RATE_HZ), np.int16)
    starts = rng.integers(0, len(noise) - int(LONGEST_S * RATE_HZ), len(samples))
    parts = [noise[start : start + size] for start, size in zip(starts, samples, strict=True)]
    return [np.pad(part, (0, padded_to - len(part))) for part in parts] if padded_to else parts
