"""Tiny Granite NAR models with random weights, clips for them, and one way to transcribe. Needs no more than the model code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from pipeline.engines.granite_nar.attention import Backend
from pipeline.engines.granite_nar.collapse import Floats
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.model import Begun, DraftLabels, Model
from pipeline.engines.granite_nar.packing import Ints, Samples
from pipeline.engines.granite_nar.random_checkpoint import TINY, random_tensors
from pipeline.engines.granite_nar.weights import Weights, build_weights


@dataclass(frozen=True, slots=True, eq=False)
class Transcribed:
    """What a model makes of one clip."""

    draft: Ints
    draft_probabilities: Floats
    final: Ints
    final_probabilities: Floats


@contextmanager
def one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny products are slow, and on a busy machine five times slower still."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def random_weights(
    config: ModelConfig = TINY, *, seed: int = 0, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> Weights:
    tensors = random_tensors(config, seed=seed, dtype=dtype)
    return build_weights(tensors.__getitem__, config, dtype=dtype, device=torch.device(device))


def random_model(weights: Weights, backend: Backend = "sdpa", config: ModelConfig = TINY) -> Model:
    return Model(weights, config, DraftLabels(config.blank_id, 0), backend=backend)


def babble(n_samples: int) -> Samples:
    """A clip that changes every 60 ms, so that its frames are not alike; always the same for the same length."""
    source = np.random.default_rng(n_samples)
    clip = np.zeros(n_samples, np.float64)
    for begin in range(0, n_samples, 960):
        part = clip[begin : begin + 960]
        time_s = np.arange(len(part)) / 16_000
        for hertz in source.uniform(60, 7_900, 4):
            part += 10 ** source.uniform(1, 3.8) * np.sin(2 * np.pi * hertz * time_s)
        part += 10 ** source.uniform(0, 3) * source.normal(size=len(part))
    return clip.clip(-32_768, 32_767).astype(np.int16)


def transcribe(model: Model, clips: Sequence[Samples], *, round_to: int = 1) -> list[Transcribed]:
    """All clips in one pass."""
    with torch.inference_mode():
        batch = model.pack(clips, round_to=round_to)
        return finish(model, model.begin(batch, model.upload(batch)))


def finish(model: Model, begun: Begun) -> list[Transcribed]:
    """The rest of a pass that has begun."""
    drafts = model.drafts(begun)
    finals = model.tokens(model.edit(begun, np.arange(begun.batch.clips), drafts.split()))
    both = (part for tokens in (drafts, finals) for part in (tokens.split(), tokens.split_probabilities()))
    return [Transcribed(*row) for row in zip(*both, strict=True)]
