"""Log-mel features on the device, for all clips of a batch at once, each framed as if alone.

Equal to torchaudio's MelSpectrogram as the model's feature extractor uses it (n_fft 512, Hann 400 centred, hop 160, reflected
ends, power 2, 80 HTK filters without area norm), then log10, a floor 8 below the clip's own loudest value, and pairs stacked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline.engines.granite_nar.packing import HOP_SAMPLES, WINDOW_SAMPLES

_FFT = 512
_MELS = 80
_RATE_HZ = 16_000
_SMALLEST = 1e-10


class LogMel:
    """The window and the filters, on a device. float32 whatever the model's type."""

    def __init__(self, device: torch.device) -> None:
        self._window = torch.hann_window(WINDOW_SAMPLES, periodic=True, dtype=torch.float64).float().to(device)
        self._filters = mel_filters().float().to(device)

    def __call__(self, samples: Tensor, mel: Tensor, clip: Tensor, clips: int) -> Tensor:
        """samples float32 [n] in -1 … 1 (see `packing.pack_samples`), mel [2 M] hops, clip [M] → float32 [M, 160]."""
        if not len(clip):
            return samples.new_zeros(0, 2 * _MELS)
        windows = samples.unfold(0, WINDOW_SAMPLES, HOP_SAMPLES)  # [hops - 2, 400], a view
        power = torch.fft.rfft(windows[mel] * self._window, n=_FFT).abs().square()  # [2 M, 257]
        log = torch.log10((power @ self._filters).clamp_min(_SMALLEST)).view(len(clip), 2 * _MELS)
        loudest = torch.full((clips,), -torch.inf, device=log.device)
        loudest = loudest.scatter_reduce(0, clip, log.amax(1), "amax")
        return torch.maximum(log, loudest[clip, None] - 8) / 4 + 1


def mel_filters() -> Tensor:
    """Triangles on the HTK mel scale, 0 to 8000 Hz, float64 [257, 80]."""
    hertz = torch.linspace(0, _RATE_HZ / 2, _FFT // 2 + 1, dtype=torch.float64)
    top = 2595.0 * torch.log10(torch.tensor(1 + (_RATE_HZ / 2) / 700, dtype=torch.float64))
    corners = 700 * (10 ** (torch.linspace(0, 1, _MELS + 2, dtype=torch.float64) * top / 2595) - 1)
    rising = (hertz[:, None] - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz[:, None]) / (corners[2:] - corners[1:-1])
    return torch.minimum(rising, falling).clamp_min(0)
