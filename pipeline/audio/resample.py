"""Samples of any rate, type and number of channels into int16, 16 kHz, mono. Knows nothing of files.

The mix comes first (one signal to resample, not many), as the mean of the channels; then soxr HQ: flat to 7 kHz, aliases below
-130 dB. A stream resampled from second s on is that of the whole file from second s on, because whole seconds are the one place
where the grids of every rate and of 16 kHz meet.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import soxr

from pipeline.audio.wire import MAX_SPLIT_CHANNELS
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, Samples

Planes = npt.NDArray[Any]  # [channels, samples], the decoder's own type
Mono = npt.NDArray[Any]  # [samples], float32 in [-1, 1]; int16 where nothing had to be computed

_LOUDEST_SAMPLE = 32.0  # 30 dB over full scale; beyond it a file is broken and the filter would overflow
_ANTIPHASE_RATIO = 1e-4  # mix below -40 dB of the loudest channel
_SILENCE = 1e-8  # mean square of -80 dB


class Mixer:
    """Mixes planes down, and notices when channels cancel each other."""

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._energies: npt.NDArray[np.float64] = np.zeros(0)
        self._mix_energy = 0.0
        self._n_samples = 0

    def mix(self, planes: Planes) -> Mono:
        """[channels, n] to [n]. Raises AudioError no_such_channel."""
        n_channels = len(planes)
        if self._channel is not None and self._channel >= n_channels:
            message = (
                f"The row names channel {self._channel}, the audio has {n_channels} (counted from 0); correct the row."
            )
            raise AudioError("no_such_channel", message)
        if n_channels == 1 or self._channel is not None:
            return _one(planes[self._channel or 0])
        floats = _to_float(planes)
        mono = _sound(_mean(floats))
        self._measure(floats, mono)
        return mono

    def cancelled(self) -> int | None:
        """The loudest channel, if the mix is silent beside it."""
        if not len(self._energies):
            return None
        loudest = int(np.argmax(self._energies))
        loud = float(self._energies[loudest])
        return loudest if loud > _SILENCE * self._n_samples and self._mix_energy < _ANTIPHASE_RATIO * loud else None

    def _measure(self, planes: Planes, mono: Mono) -> None:
        if len(self._energies) != len(planes):
            self._energies, self._mix_energy, self._n_samples = np.zeros(len(planes)), 0.0, 0
        with np.errstate(over="ignore", invalid="ignore"):
            self._energies += [float(np.dot(plane, plane)) for plane in planes]
        self._mix_energy += float(np.dot(mono, mono))
        self._n_samples += planes.shape[1]


class Splitter:
    """Keeps the channels apart, and each at 16 kHz; their number is that of the first block."""

    def __init__(self) -> None:
        self.n_channels = 0
        self._streams: list[Resampler] = []
        self._rate_hz = 0

    def feed(self, planes: Planes, rate_hz: int) -> Samples:
        """[channels, n] to [m, channels], what the block completes. Raises AudioError channels_unsplit."""
        if not self.n_channels:
            self.n_channels = _checked_count(len(planes))
        if len(planes) != self.n_channels:
            raise AudioError(
                "channels_unsplit",
                f"The audio has {self.n_channels} channels at its start and {len(planes)} later, so they cannot be told "
                "apart; leave `channel` out to have them mixed.",
            )
        pieces = []
        if rate_hz != self._rate_hz:
            pieces.append(self.finish())
            self._streams, self._rate_hz = [Resampler(rate_hz) for _ in planes], rate_hz
        fed = [stream.feed(_one(plane)) for stream, plane in zip(self._streams, planes, strict=True)]
        return np.concatenate([*pieces, np.stack(fed, axis=1)])

    def finish(self) -> Samples:
        """What was still held back: [m, channels]."""
        if not self._streams:
            return np.zeros((0, self.n_channels), np.int16)
        return np.stack([stream.finish() for stream in self._streams], axis=1)


class Resampler:
    """Mono at `rate_hz` in, int16 at 16 kHz out, block by block."""

    def __init__(self, rate_hz: int) -> None:
        self._stream = None
        if rate_hz != SAMPLE_RATE_HZ:
            self._stream = soxr.ResampleStream(rate_hz, SAMPLE_RATE_HZ, 1, dtype="float32", quality="HQ")

    def feed(self, mono: Mono) -> Samples:
        """What the block completes."""
        return to_int16(self._stream.resample_chunk(_to_float(mono)) if self._stream else mono)

    def finish(self) -> Samples:
        """What was still held back."""
        if self._stream is None:
            return np.zeros(0, np.int16)
        return to_int16(self._stream.resample_chunk(np.zeros(0, np.float32), last=True))


def _checked_count(n_channels: int) -> int:
    if n_channels > MAX_SPLIT_CHANNELS:
        raise AudioError(
            "channels_unsplit",
            f"The audio has {n_channels} channels, and at most {MAX_SPLIT_CHANNELS} are split; write a row for each "
            "`channel` that matters.",
        )
    return n_channels


def _one(plane: Mono) -> Mono:
    return plane if plane.dtype == np.int16 else _sound(_to_float(plane))


def _mean(planes: Planes) -> Mono:
    total: Mono = planes[0] + planes[1]
    for plane in planes[2:]:
        total += plane
    total *= np.float32(1 / len(planes))
    return total


def to_int16(mono: Mono) -> Samples:
    """Round and clip; int16 passes untouched."""
    if mono.dtype == np.int16:
        return mono
    scaled = mono * np.float32(32768)
    np.rint(scaled, out=scaled)
    np.clip(scaled, -32768, 32767, out=scaled)
    return scaled.astype(np.int16)


def _to_float(samples: Planes) -> Planes:
    """Full scale becomes 1."""
    if samples.dtype == np.float32:
        return samples
    if samples.dtype == np.uint8:
        return (samples.astype(np.float32) - 128) / 128
    if samples.dtype.kind == "i":
        return np.multiply(samples, -1 / np.iinfo(samples.dtype).min, dtype=np.float32, casting="unsafe")
    with np.errstate(over="ignore"):
        return samples.astype(np.float32)


def _sound(mono: Mono) -> Mono:
    """The block without NaN, infinities and absurd values."""
    if len(mono) == 0 or max(mono.max(), -mono.min()) <= _LOUDEST_SAMPLE:  # false for NaN
        return mono
    return np.clip(np.where(np.isfinite(mono), mono, np.float32(0)), -_LOUDEST_SAMPLE, _LOUDEST_SAMPLE)
