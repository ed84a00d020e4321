"""From samples to what Whisper hears: log-mels of a chunk on its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import Samples

FRAMES = 3000  # of 10 ms: the 30 s that every chunk is padded to
HOP_SAMPLES = 160
_WINDOW_SAMPLES = 400


def log_mels(extractor: Any, samples: Samples) -> npt.NDArray[np.float32]:
    """Log-mel [n_mels, 3000] of int16 samples and silence up to 30 s. `extractor`: a FeatureExtractor of faster-whisper.

    The padding is what the model was trained on; zeros in its place, as faster-whisper pads, cost accuracy
    (docs/engines.md). Past the last window that touches audio every frame is the same, so it is computed once.
    """
    # One hop more than the window, so that the last frame sees padding alone.
    frames = extractor(samples.astype(np.float32) / 32768, padding=_WINDOW_SAMPLES + HOP_SAMPLES)[:, :FRAMES]
    return np.pad(frames, ((0, 0), (0, FRAMES - frames.shape[1])), mode="edge").astype(np.float32)
