"""Where two neighbouring windows of a long recording meet.

Both decode the same border region and each works out the cut by itself: a pure function of the samples, so no worker
waits for another and no sample is lost or doubled. Knows nothing of files or shards.
"""

from __future__ import annotations

import numpy as np

from pipeline.audio.energy import FRAME, frame_energy, quietest_frame
from pipeline.records import SAMPLE_RATE_HZ, Samples

QUIET_FRAMES = 30  # 0.3 s of quiet: a pause between words, not one inside a word
GRID = 2560  # samples: whole frames of the energy (160) and of the voice activity detection (512), as in the uncut recording


def seam_bounds(boundary_s: float, overlap_s: float) -> tuple[float, float]:
    """The border region around a planned boundary, in seconds of the recording, on whole 10 ms.

    Both neighbours must decode it from the same seek, for the samples to be the same.
    """
    first = max(0, round((boundary_s - overlap_s / 2) * SAMPLE_RATE_HZ / FRAME))
    last = max(first, round((boundary_s + overlap_s / 2) * SAMPLE_RATE_HZ / FRAME))
    return first * FRAME / SAMPLE_RATE_HZ, last * FRAME / SAMPLE_RATE_HZ


def quietest_cut_s(samples: Samples, start_s: float) -> float:
    """Where to cut the border region that starts at `start_s`: amid its quietest 0.3 s, on whole 160 ms of the recording.

    Of equally quiet places the one nearest to the middle of the region, then the first. int16 [n] → seconds from the
    recording's start, always inside the region; one that holds no whole 160 ms is cut on whole 10 ms, or at its start.
    Channels that are kept apart, [channels, n], are cut at one place: where all of them together are quietest.
    """
    channels = np.atleast_2d(samples)
    start = round(start_s * SAMPLE_RATE_HZ)
    skip = -start % FRAME
    energy = sum((frame_energy(channel[skip:]) for channel in channels[1:]), frame_energy(channels[0][skip:]))
    if not len(energy):
        return start / SAMPLE_RATE_HZ
    frame = quietest_frame(energy, QUIET_FRAMES, near=len(energy) // 2)
    cut = start + skip + frame * FRAME
    on_grid = (cut + GRID // 2) // GRID * GRID
    return (on_grid if start <= on_grid <= start + channels.shape[1] else cut) / SAMPLE_RATE_HZ
