"""One window of a recording: decode it, find the speech in it, cut it into chunks.

Neighbouring windows of a long recording agree on their common cut without talking: each reads the border region by
itself, from the same seek, so both see the same samples to the bit and take the same quietest point.
Knows no shards, no Ray, no engine but its longest chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pipeline.audio.ahead import Stretch
from pipeline.audio.chunk import cut_chunks
from pipeline.audio.reader import AudioReader
from pipeline.audio.seam import quietest_cut_s, seam_bounds
from pipeline.audio.vad import Range, padded, speech_spans
from pipeline.config import ChunkConfig, PlanConfig
from pipeline.errors import AudioError
from pipeline.records import SAMPLE_RATE_HZ, DecodedAudio, DecodedWindow, Failure, Samples, Span, Window

# Header durations are off by a frame or two, and estimates by more: so much is read, and kept, behind the planned end.
_OPEN_TAIL_S = 30.0
# A duration in a manifest may be rounded: what ends so soon behind it belongs to the row. More is another row's audio.
_GIVEN_TAIL_S = 0.05
_CLIP_S = 30.0  # shorter recordings are read ahead, in groups
# Less than this is missing: rounding, or a codec's last frame. More: the audio broke off, and that must be said.
_MISSING_SHARE = 0.02
_MISSING_S = 0.1
# Of a recording that is split, so long a pause ends a chunk: its text is put between those of the other channels by its start.
_TURN_PAUSE_S = 1.0


class Cut(NamedTuple):
    """A chunk's half-open sample range in its window, the seconds of speech found in it (None: nobody looked), its channel."""

    start: int
    stop: int
    speech_s: float | None
    channel: int | None = None  # where the recording is split


def decode_window(
    reader: AudioReader, window: Window, plan: PlanConfig, chunking: ChunkConfig, max_chunk_s: float
) -> tuple[DecodedWindow, Samples, tuple[Cut, ...]]:
    """Decode a window: what it is, its samples, and where the chunks lie in them.

    [samples]; of a recording to be split [channels, samples], and the chunks one channel after the other. Raises AudioError
    when nothing of it can be had.
    """
    audio, before, expected_end_s = _read(reader, window, plan)
    max_samples = int(min(chunking.max_s or max_chunk_s, max_chunk_s) * SAMPLE_RATE_HZ)
    cuts: list[Cut] = []
    spans: list[Span] = []
    for number, samples in enumerate(np.atleast_2d(audio.samples)):
        is_split = audio.samples.ndim == 2
        channel = number if is_split else None
        before_it = before[number] if before is not None and is_split else before
        speech = speech_spans(samples, chunking, before_it)
        wanted = padded(speech, len(samples), chunking)
        bounds = cut_chunks(samples, wanted, max_samples, _longest_pause(chunking, is_split), whole=not is_split)
        heard_s = [None] * len(bounds) if chunking.vad == "none" else _speech_s(bounds, speech)
        cuts += [Cut(*bound, speech_s, channel) for bound, speech_s in zip(bounds, heard_s, strict=True)]
        spans += _silence_between(bounds, audio.start_s, len(samples), channel)
    decoded = DecodedWindow(audio.start_s, audio.end_s, tuple(spans), audio.report)
    return _with_shortfall(decoded, expected_end_s), audio.samples, tuple(cuts)


def _longest_pause(chunking: ChunkConfig, is_split: bool) -> int | None:
    """Samples of the pause that ends a chunk. Where two people speak on channels of their own it is the other one's turn."""
    pause_s = chunking.longest_pause_s
    if pause_s is None:
        return None
    return round((min(pause_s, _TURN_PAUSE_S) if is_split else pause_s) * SAMPLE_RATE_HZ)


def _read(reader: AudioReader, window: Window, plan: PlanConfig) -> tuple[DecodedAudio, Samples | None, float]:
    """The window's audio, some of what comes before it, and where it should end."""
    expect = (window.size_bytes, window.etag)
    start_s, before = (0.0, None) if window.index == 0 else _seam(reader, window, window.start_s, plan)
    if window.index < window.count - 1:
        end_s, _ = _seam(reader, window, window.end_s, plan)
        return reader.read(window.recording, start_s, end_s, expect=expect), before, end_s
    length_known = window.end_s > window.start_s
    end_s = window.end_s if length_known else window.start_s + plan.window_s
    tail_s = _tail_s(window)
    audio = reader.read(window.recording, start_s, end_s + tail_s, expect=expect)
    read_to_s = audio.end_s
    goes_on = read_to_s >= end_s + tail_s - 1 / SAMPLE_RATE_HZ
    if goes_on and not length_known:
        raise AudioError(
            "audio_too_long",
            f"The header does not tell how long the audio is, and it is longer than one window ({plan.window_s:.0f} s); "
            "give the row its duration.",
        )
    if goes_on:
        audio = _cut_at(audio, end_s, ("longer_than_its_header",) if window.open_end else ())
    expected_end_s = end_s if length_known else read_to_s
    if window.open_end and audio.report.missing_s:
        expected_end_s = max(expected_end_s, read_to_s + audio.report.missing_s)
    return audio, before, expected_end_s


def clip(window: Window) -> Stretch | None:
    """What `decode_window` reads of a short recording, to be announced; None for others."""
    length_s = window.end_s - window.start_s
    if window.count > 1 or not 0 < length_s <= _CLIP_S:
        return None
    return Stretch(
        window.recording, 0.0, window.end_s + _tail_s(window), (window.size_bytes, window.etag), likely_s=length_s
    )


def _tail_s(window: Window) -> float:
    return _OPEN_TAIL_S if window.open_end else _GIVEN_TAIL_S


def _cut_at(audio: DecodedAudio, end_s: float, warnings: tuple[str, ...]) -> DecodedAudio:
    keep = round((end_s - audio.start_s) * SAMPLE_RATE_HZ)
    report = replace(audio.report, warnings=(*audio.report.warnings, *warnings))
    return replace(audio, samples=audio.samples[..., :keep], report=report)


def _seam(reader: AudioReader, window: Window, boundary_s: float, plan: PlanConfig) -> tuple[float, Samples | None]:
    """Where both neighbours of a boundary cut, a function of the border's samples alone, and the border's samples before it.

    The right neighbour's voice activity detection hears those first: from a standing start it can miss a first word.
    """
    low_s, high_s = seam_bounds(boundary_s, plan.overlap_s)
    border = reader.read(window.recording, low_s, high_s, expect=(window.size_bytes, window.etag))
    if border.n_samples < round((high_s - low_s) * SAMPLE_RATE_HZ):
        return boundary_s, None  # the audio ends inside the border; both neighbours see that too
    cut_s = quietest_cut_s(border.samples, low_s)
    return cut_s, border.samples[..., : round((cut_s - low_s) * SAMPLE_RATE_HZ)]


def _speech_s(bounds: Sequence[Range], speech: Sequence[Range]) -> list[float]:
    """Seconds of speech in each of the bounds; both sorted and disjoint."""
    starts, stops = np.array(speech, np.int64).reshape(-1, 2).T
    before = np.append(0, np.cumsum(stops - starts))  # samples of speech before each range, and in all

    def until(sample: int) -> int:
        reached = int(np.searchsorted(starts, sample))
        return int(before[reached]) - (max(0, int(stops[reached - 1]) - sample) if reached else 0)

    return [(until(stop) - until(start)) / SAMPLE_RATE_HZ for start, stop in bounds]


def _silence_between(
    bounds: tuple[tuple[int, int], ...], start_s: float, n_samples: int, channel: int | None
) -> tuple[Span, ...]:
    edges = [0, *(edge for bound in bounds for edge in bound), n_samples]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return tuple(
        Span(start_s + low / SAMPLE_RATE_HZ, start_s + high / SAMPLE_RATE_HZ, "non_speech", channel)
        for low, high in gaps
        if high > low
    )


def _with_shortfall(decoded: DecodedWindow, expected_end_s: float) -> DecodedWindow:
    """Declare as failed what the plan expected and the audio did not give."""
    missing_s = expected_end_s - decoded.end_s
    if missing_s <= max(_MISSING_S, (expected_end_s - decoded.start_s) * _MISSING_SHARE):
        return decoded
    span = Span(decoded.end_s, expected_end_s, "failed")
    message = f"The audio ends at {decoded.end_s:.1f} s of {expected_end_s:.1f} s; the object may be cut off."
    return replace(decoded, spans=(*decoded.spans, span), failure=Failure("decode", "truncated", message))
