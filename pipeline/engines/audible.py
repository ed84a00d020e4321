"""What is worth recognising at all: models invent a word for digital silence and for a click."""

from __future__ import annotations

import numpy as np

from pipeline.records import Samples

# Nothing quieter (-72 dBFS) or shorter (0.1 s) is a word.
_SILENT_PEAK = 8
_SHORTEST_SAMPLES = 1600


def is_audible(samples: Samples) -> bool:
    """Whether there may be speech in int16 samples at 16 kHz."""
    return len(samples) >= _SHORTEST_SAMPLES and int(np.abs(samples.astype(np.int32)).max()) > _SILENT_PEAK
