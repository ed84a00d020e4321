"""What the models take of audio: every clip's features as if it were alone, then padded with a mask.

Granite Speech 5 has code of its own here: its published extractor pads before the transform, so that a clip's last frames change
with its batch, and it needs torchaudio (docs/decisions/0002-torchaudio-and-torchcodec.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.records import SAMPLE_RATE_HZ, Samples

if TYPE_CHECKING:
    from torch import Tensor, device

_FFT, _WINDOW, _HOP, _MELS = 512, 400, 160, 80
_SMALLEST, _FLOOR = 1e-10, 8.0  # of the power; below a clip's loudest, in powers of ten


class FrontEnd(Protocol):
    """Audio to what a model takes."""

    def __call__(self, clips: Sequence[Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs for a batch, and how long each clip is in the unit that the model counts, int64 [B]."""
        ...


class GraniteFeatures:
    """80 log-mels and their slopes, two frames stacked: float32 [B, T, 320] on the device, T = ⌈⌊samples / 160⌋ / 2⌉."""

    def __init__(self, on: device) -> None:
        import torch

        from pipeline.engines.granite_nar.features import mel_filters

        self._device = on
        self._window = torch.hann_window(_WINDOW, periodic=True, dtype=torch.float64).float().to(on)
        self._filters = mel_filters().float().to(on)

    def __call__(self, clips: Sequence[Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """Clips of more than 200 samples. The length is in stacked frames."""
        import torch

        frames = torch.tensor([_even_frames(len(clip)) for clip in clips], device=self._device)
        audio = np.zeros((len(clips), max(map(_covered, clips)) + _WINDOW), np.int16)
        for row, clip in zip(audio, clips, strict=True):
            _mirror_ends(clip, row)
        windows = torch.from_numpy(audio).to(self._device).float().div_(32768).unfold(1, _WINDOW, _HOP)
        windows = windows[:, : int(frames.max())]
        power = torch.fft.rfft(windows * self._window, n=_FFT).abs().square()
        log = (power @ self._filters).clamp_min_(_SMALLEST).log10_()  # [B, F, 80]
        at = torch.arange(log.shape[1], device=self._device)
        real = at < frames[:, None]
        loudest = log.masked_fill(~real[..., None], -torch.inf).amax((1, 2), keepdim=True)
        log = torch.maximum(log, loudest - _FLOOR).div_(4).add_(1)
        after = (at + 1).minimum(frames[:, None] - 1)[..., None].expand_as(log)
        before = torch.cat([log[:, :1], log[:, :-1]], 1)
        both = torch.cat([log, (log.gather(1, after) - before) / 2], 2) * real[..., None]
        mask = real[:, ::2]
        inputs = {"input_features": both.view(len(clips), -1, 4 * _MELS), "attention_mask": mask.long()}
        return inputs, mask.sum(1)


class SpectrogramFeatures:
    """A published extractor that masks padding by itself, as Parakeet's does."""

    def __init__(self, extractor: Any, on: device) -> None:
        self._extractor, self._device = extractor, on

    def __call__(self, clips: Sequence[Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """The length is in frames."""
        found = self._extractor([_floats(clip) for clip in clips], sampling_rate=SAMPLE_RATE_HZ, return_tensors="pt")
        mask = found["attention_mask"].to(self._device)
        return {"input_features": found["input_features"].to(self._device), "attention_mask": mask}, mask.sum(1)


class WaveformFeatures:
    """Samples, each clip normalised on its own where the model wants it. Without a mask clips have to be of one length."""

    def __init__(self, extractor: Any, on: device, *, masked: bool) -> None:
        self._extractor, self._device, self._masked = extractor, on, masked

    def __call__(self, clips: Sequence[Samples]) -> tuple[dict[str, Tensor], Tensor]:
        """The length is in samples."""
        import torch

        lengths = torch.tensor([len(clip) for clip in clips])
        if not self._masked and len(set(lengths.tolist())) > 1:
            raise ValueError("clips of different lengths cannot share a batch of this model")
        values = torch.zeros(len(clips), int(lengths.max()))
        for row, clip in zip(values, clips, strict=True):
            alone = self._extractor(_floats(clip), sampling_rate=SAMPLE_RATE_HZ, return_tensors="np")
            row[: len(clip)] = torch.from_numpy(alone["input_values"][0])
        inputs = {"input_values": values.to(self._device)}
        if self._masked:
            mask = torch.arange(values.shape[1]) < lengths[:, None]
            inputs["attention_mask"] = mask.long().to(self._device)
        return inputs, lengths.to(self._device)


def _floats(clip: Samples) -> npt.NDArray[np.float32]:
    return clip.astype(np.float32) / np.float32(32768)


def _even_frames(n_samples: int) -> int:
    return 2 * -(-(n_samples // _HOP) // 2)


def _covered(clip: Samples) -> int:
    """Samples of the clip and of the zeros up to its last frame's centre."""
    return max(len(clip), (_even_frames(len(clip)) - 1) * _HOP + 1)


def _mirror_ends(clip: Samples, row: Samples) -> None:
    """Write the clip into a row of zeros, with half a window of its mirror image before it and behind what it covers."""
    half, size = _WINDOW // 2, _covered(clip)
    row[half : half + len(clip)] = clip
    row[:half] = row[2 * half : half : -1]
    row[half + size : 2 * half + size] = row[half + size - 2 : size - 2 : -1]
