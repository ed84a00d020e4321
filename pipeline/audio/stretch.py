"""A stretch of a recording out of its decoded blocks: mixed, resampled, cut to the samples that were asked for.

Sample numbers count 16 kHz samples from the object's start. Knows nothing of files and codecs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipeline.audio.resample import Mixer, Planes, Resampler, Splitter
from pipeline.audio.wire import Request
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, SPLIT, Samples

_LEAD_SAMPLES = SAMPLE_RATE_HZ // 10  # the resampler's filter reaches less far

Block = tuple[int, Planes]  # rate_hz, [channels, samples]
Blocks = Callable[[int], Iterator[Block]]  # from a whole second on


class Source(Protocol):
    """Bytes by position."""

    @property
    def size(self) -> int:
        """Bytes in all."""

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; empty at the end."""


class Output(Protocol):
    """Where samples go."""

    def write(self, pcm: memoryview) -> None:
        """Take int16 samples, as bytes."""

    def restart(self) -> None:
        """Forget the samples taken so far."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The samples that were asked for, of each channel. `limit`: the most the reader takes; more is an endless recording."""

    start: int
    end: int | None
    limit: int
    channel: int | None

    @classmethod
    def of(cls, request: Request) -> Stretch:
        """The stretch that a request names."""
        return cls(request.start, request.end, request.limit, request.channel)


def decode_audibly(blocks: Blocks, stretch: Stretch, output: Output) -> dict[str, Any]:
    """Decode the mix, or the loudest channel where the channels cancel each other, or all; the warnings, the count of all."""
    if stretch.channel == SPLIT:
        sent, n_channels = _decode_apart(blocks, stretch, output)
        return {"warnings": [] if sent else ["no_samples"], "split_channels": n_channels}
    sent, loudest = _decode(blocks, stretch, output)
    if loudest is None:
        return {"warnings": [] if sent else ["no_samples"]}
    output.restart()
    _decode(blocks, Stretch(stretch.start, stretch.end, stretch.limit, loudest), output)
    return {"warnings": ["antiphase"]}


def _decode_apart(blocks: Blocks, stretch: Stretch, output: Output) -> tuple[int, int]:
    """Samples of each channel sent, one of each in turn, and how many channels there are."""
    second = max(0, stretch.start - _LEAD_SAMPLES) // SAMPLE_RATE_HZ
    splitter, sink = Splitter(), _Sink(stretch, second * SAMPLE_RATE_HZ, output)
    for rate_hz, planes in blocks(second):
        sink.write(splitter.feed(planes, rate_hz))
        if sink.full:
            break
    else:
        sink.write(splitter.finish())
    return sink.sent, splitter.n_channels


def _decode(blocks: Blocks, stretch: Stretch, output: Output) -> tuple[int, int | None]:
    """Samples sent, and the channel to take instead if the mix cancels."""
    second = max(0, stretch.start - _LEAD_SAMPLES) // SAMPLE_RATE_HZ
    mixer, sink = Mixer(stretch.channel), _Sink(stretch, second * SAMPLE_RATE_HZ, output)
    resampler, rate = None, 0
    for block_rate, planes in blocks(second):
        if resampler is None or block_rate != rate:
            if resampler is not None:
                sink.write(resampler.finish())
            resampler, rate = Resampler(block_rate), block_rate
        sink.write(resampler.feed(mixer.mix(planes)))
        if sink.full:
            break
    else:
        if resampler is not None:
            sink.write(resampler.finish())
    return sink.sent, mixer.cancelled()


class _Sink:
    """Lets through the samples of the stretch."""

    def __init__(self, stretch: Stretch, position: int, output: Output) -> None:
        self._stretch, self._position, self._output = stretch, position, output
        self.sent = 0

    @property
    def full(self) -> bool:
        return self._stretch.end is not None and self._position >= self._stretch.end

    def write(self, samples: Samples) -> None:
        """Samples [n], or [n, channels]."""
        start = max(0, self._stretch.start - self._position)
        end = len(samples) if self._stretch.end is None else max(0, self._stretch.end - self._position)
        self._position += len(samples)
        wanted = samples[start:end]
        if self.sent + len(wanted) > self._stretch.limit:
            raise too_long()
        if len(wanted):
            self._output.write(wanted.reshape(-1).view(np.uint8).data)
            self.sent += len(wanted)


def too_long() -> AudioError:
    """What stands against an endless recording."""
    return AudioError(
        "audio_too_long", "The object holds more audio than decode.max_audio_s allows; raise it or cut the object."
    )
