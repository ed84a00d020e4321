"""What comes back to the driver for a shard, finished or not: numbers and names, no text. They count among the records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class StepTime:
    """How a worker spent its wall time over one shard."""

    busy_s: float = 0.0
    wait_s: float = 0.0  # idle before the shard came


@dataclass(frozen=True, slots=True)
class Receipt:
    """What comes back to the driver for a shard: a few numbers."""

    shard_id: str
    outcome: Literal["won", "exists"]  # exists: another attempt had published it
    rows: int
    ok: int
    partial: int
    failed: int
    audio_s: float
    decode_s: float
    engine_s: float
    wait_s: float
    padded_s: float
    draft_s: float
    engine_audio_s: float = 0.0  # speech given to the engine
    batches: int = 0
    backoffs: float = 0.0  # batches that ran out of memory
    queued_s: float = 0.0  # what the decoded shard waited for the engine
    decoding: StepTime = field(default_factory=lambda: StepTime())
    publishing: StepTime = field(default_factory=lambda: StepTime())
    languages: Mapping[str, float] = field(default_factory=dict)  # label (pipeline.metrics.measures) → seconds of audio
    failure_codes: Mapping[str, int] = field(default_factory=dict)  # of failed and partial rows
    replaced: tuple[str, ...] = ()  # stages whose worker had just taken the place of one that died


@dataclass(frozen=True, slots=True)
class Undone:
    """What comes back instead of a receipt when a shard could not be finished: it has no part, so a rerun tries it again.

    `refused`: a store is full, read-only or closed to us, and a rerun will fare no better until someone has mended that.
    """

    shard_id: str
    stage: str
    message: str
    refused: bool = False
