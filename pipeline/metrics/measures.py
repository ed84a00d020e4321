"""What Quarry counts while it works: names, labels and meaning of every metric, and who it is told to. Pure; knows no Ray.

Workers tell a `Recorder`. On Ray it is `runtime.ray_metrics`, which a Prometheus can scrape; elsewhere nobody listens, and the
same numbers come with each shard's receipt (`runtime.events`). Labels have few values whatever an archive holds: never an id, a
uri, or a word that a manifest made up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, get_args

from pipeline.engines.requests import OFFERS, primary_language
from pipeline.errors import AudioCode, EngineCode

PREFIX = "quarry_"
STAGES = ("decode", "engine", "store")

_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_SECONDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)


@dataclass(frozen=True, slots=True)
class Measure:
    """A metric. `bounds` are the upper ends of a histogram's buckets."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


def _counter(name: str, meaning: str, *labels: str) -> Measure:
    return Measure(PREFIX + name, "counter", meaning, labels)


def _gauge(name: str, meaning: str, *labels: str) -> Measure:
    return Measure(PREFIX + name, "gauge", meaning, labels)


def _histogram(name: str, meaning: str, bounds: tuple[float, ...]) -> Measure:
    return Measure(PREFIX + name, "histogram", meaning, (), bounds)


AUDIO_SECONDS = _counter(
    "audio_seconds_total",
    "seconds of audio that a stage is done with: decoded, given to the engine (speech alone), published",
    "lang",
    "stage",
)
ROWS = _counter("rows_total", "rows published, windows of long recordings each", "status")
ROWS_FAILED = _counter("rows_failed_total", "rows published that failed wholly or in part", "code")
SHARDS = _counter(
    "shards_total", "shards that came to an end: won (published), exists (another attempt had), undone", "outcome"
)
STAGE_BUSY = _counter("stage_busy_seconds_total", "seconds in which a worker of the stage worked", "stage")
STAGE_WAIT = _counter("stage_wait_seconds_total", "seconds in which it stood idle", "stage")
ENGINE_BUSY_RATIO = _gauge("engine_busy_ratio", "of the time of an engine worker's last call, the share it computed")
QUEUE_DEPTH = _gauge(
    "queue_depth", "shards that wait: plan (not begun or on their way), engine (in an engine worker)", "stage"
)
BATCH_FILL = _histogram("batch_fill_ratio", "padded seconds of a batch, of those that it may have", _RATIOS)
PADDING = _histogram("padding_ratio", "share of a batch that was padding", _RATIOS)
DECODE_SECONDS = _histogram("decode_seconds", "wall seconds to fetch, decode and cut one shard", _SECONDS)
PUBLISH_SECONDS = _histogram("publish_seconds", "wall seconds to stitch, judge and put one shard", _SECONDS)
OOM_BACKOFFS = _counter("oom_backoffs_total", "batches that ran out of memory and were halved")
WORKERS_REPLACED = _counter("workers_replaced_total", "workers that took the place of one that died", "stage")

MEASURES = (
    AUDIO_SECONDS,
    ROWS,
    ROWS_FAILED,
    SHARDS,
    STAGE_BUSY,
    STAGE_WAIT,
    ENGINE_BUSY_RATIO,
    QUEUE_DEPTH,
    BATCH_FILL,
    PADDING,
    DECODE_SECONDS,
    PUBLISH_SECONDS,
    OOM_BACKOFFS,
    WORKERS_REPLACED,
)


class Recorder(Protocol):
    """Who is told. Safe in threads; never raises for what it cannot pass on."""

    def record(self, measure: Measure, value: float = 1.0, **labels: str) -> None:
        """A counter grows by the value, a gauge takes it, a histogram counts it."""
        ...


class Silent:
    """Nobody listens."""

    def record(self, measure: Measure, value: float = 1.0, **labels: str) -> None:
        """Forget it."""


SILENT = Silent()


def language_label(tag: str | None) -> str:
    """A language as a label: one that some engine here knows, "other", or "unknown" where none is named or heard."""
    if not tag:
        return "unknown"
    language = primary_language(tag)
    return language if language in _known_languages() else "other"


def code_label(code: str) -> str:
    """A failure's code as a label: a stable one, or "other"."""
    return code if code in _CODES else "other"


@cache
def _known_languages() -> frozenset[str]:
    return frozenset().union(*(offer.languages for offer in OFFERS))


_CODES = frozenset(get_args(AudioCode)) | frozenset(get_args(EngineCode))
