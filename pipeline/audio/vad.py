"""Where in a window somebody speaks.

Knows samples alone: no files, no chunks, no engine. What it leaves out is never transcribed, so it errs on the side of speech.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.audio.energy import FRAME, frame_energy
from pipeline.config import ChunkConfig
from pipeline.errors import ConfigError
from pipeline.records import SAMPLE_RATE_HZ, Samples

Range = tuple[int, int]
Mask = npt.NDArray[np.bool_]

SILERO_FRAME = 512  # samples per probability, as the model was trained
SILERO_CONTEXT = 64  # samples of the frame before that the model sees again
SILERO_BLOCK = 128  # frames per call: 5 MB while it runs; the result is the same to the bit for any size
SILERO_HYSTERESIS = 0.15  # speech goes on until the probability falls this far below the threshold

ENERGY_BLOCK = 3000  # frames that share a noise floor: 30 s
ENERGY_FLOOR_PERCENTILE = 10
ENERGY_MARGIN_DB = 9.0


def speech_spans(samples: Samples, config: ChunkConfig, before: Samples | None = None) -> tuple[Range, ...]:
    """Half-open sample ranges that hold speech: sorted, disjoint, without padding.

    Pauses under `min_silence_s` belong to the speech around them; bursts under `min_speech_s` are dropped.
    `before`: what was heard just before `samples`, for silero to be in its stride; whole frames of it count, from its end.
    int16 [n] at 16 kHz → ranges within [0, n). Raises ConfigError where the silero model is not installed.
    """
    if not len(samples):
        return ()
    if config.vad == "none":
        return ((0, len(samples)),)
    if config.vad == "energy":
        return _spans(_energy_mask(samples), FRAME, len(samples), config)
    return _spans(_silero_mask(samples, config.threshold, before), SILERO_FRAME, len(samples), config)


def padded(spans: Sequence[Range], n_samples: int, config: ChunkConfig) -> tuple[Range, ...]:
    """The ranges with `pad_s` before and after each, within [0, n_samples): still disjoint, but neighbours may touch."""
    if not spans:
        return ()
    starts, ends = np.array(spans).T
    pad = round(config.pad_s * SAMPLE_RATE_HZ)
    middles = (ends[:-1] + starts[1:]) // 2  # a pause too short for both paddings is shared evenly
    starts = np.maximum(starts - pad, np.append(0, middles))
    ends = np.minimum(ends + pad, np.append(middles, n_samples))
    return tuple(zip(starts.tolist(), ends.tolist(), strict=True))


def _spans(mask: Mask, frame: int, n_samples: int, config: ChunkConfig) -> tuple[Range, ...]:
    if not mask.any():
        return ()
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False)) * frame
    starts, ends = edges[::2], np.minimum(edges[1::2], n_samples)
    is_pause = starts[1:] - ends[:-1] >= config.min_silence_s * SAMPLE_RATE_HZ
    starts, ends = starts[np.append(True, is_pause)], ends[np.append(is_pause, True)]
    is_speech = ends - starts >= config.min_speech_s * SAMPLE_RATE_HZ
    return tuple(zip(starts[is_speech].tolist(), ends[is_speech].tolist(), strict=True))


def _energy_mask(samples: Samples) -> Mask:
    """True where a 10 ms frame stands out from the noise floor of its half minute."""
    energy = frame_energy(samples)
    level_db = 10 * np.log10(np.maximum(energy, 1))
    blocks = np.array_split(level_db, max(1, round(len(level_db) / ENERGY_BLOCK)))
    floors_db = [np.percentile(block, ENERGY_FLOOR_PERCENTILE) if len(block) else 0.0 for block in blocks]
    return level_db > np.repeat(floors_db, [len(block) for block in blocks]) + ENERGY_MARGIN_DB


def _silero_mask(samples: Samples, threshold: float, before: Samples | None) -> Mask:
    """True where a 32 ms frame is speech: from a probability at the threshold until one well below it."""
    probability = _silero_probability(samples, before)
    is_certain = probability >= threshold
    is_certain |= probability < max(threshold - SILERO_HYSTERESIS, 0.01)
    # Frames in between follow the last certain one before them; before any, the first frame, which is no speech then.
    last_certain = np.maximum.accumulate(np.where(is_certain, np.arange(len(probability)), 0))
    return probability[last_certain] >= threshold


def _silero_probability(samples: Samples, before: Samples | None = None) -> npt.NDArray[np.float32]:
    """Speech probability of each 512 samples (the last frame filled up with silence): float32 [ceil(n / 512)]."""
    lead = np.zeros(0, np.int16) if before is None else before[len(before) % SILERO_FRAME :]
    run = _silero()
    block = SILERO_BLOCK * SILERO_FRAME
    h = np.zeros((1, 1, 128), np.float32)
    c = np.zeros((1, 1, 128), np.float32)
    context = np.zeros(SILERO_CONTEXT, np.float32)
    pieces = [lead[start : start + block] for start in range(0, len(lead), block)]
    pieces += [samples[start : start + block] for start in range(0, len(samples), block)]
    # Filled in place: results kept between a call's large buffers would break the heap into pieces too small for the next.
    probability = np.empty(sum(-(-len(piece) // SILERO_FRAME) for piece in pieces), np.float32)
    done = 0
    for audio_at_once in pieces:
        audio = audio_at_once.astype(np.float32) / 32768
        piece = np.concatenate([context, audio, np.zeros(-len(audio) % SILERO_FRAME, np.float32)])
        context[:] = piece[-SILERO_CONTEXT:]
        frames = np.lib.stride_tricks.sliding_window_view(piece, SILERO_CONTEXT + SILERO_FRAME)[::SILERO_FRAME]
        found, h[:], c[:] = run(None, {"input": np.ascontiguousarray(frames), "h": h, "c": c})
        probability[done : done + len(frames)] = found.ravel()
        done += len(frames)
    return probability[len(lead) // SILERO_FRAME :]


@cache
def _silero() -> Callable[..., Any]:
    """The silero v6 model that faster-whisper ships: one session per process, one thread.

    Read from the package's folder: importing faster-whisper would load CTranslate2 into every decoding worker.
    """
    package = find_spec("faster_whisper")
    model = Path(package.origin or "").parent / "assets" / "silero_vad_v6.onnx" if package else None
    if model is None or not model.is_file():
        raise ConfigError(
            "The silero model is not where faster-whisper 1.2 keeps it; install that version or set chunk.vad=energy."
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    run: Callable[..., Any] = session.run
    return run
