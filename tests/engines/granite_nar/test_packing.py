"""Laws of the packed rows: everything is in them once, in order, and nothing of another clip is near it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from models import babble

from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.features import LogMel
from pipeline.engines.granite_nar.packing import (
    FRAME_SAMPLES,
    HOP_SAMPLES,
    WINDOW_SAMPLES,
    frames_of,
    pack_edit,
    pack_frames,
    pack_samples,
    row_samples,
)
from pipeline.engines.granite_nar.random_checkpoint import TINY

Table = npt.NDArray[np.int64]
CONFIGS = (
    TINY,
    ModelConfig(),
    replace(TINY, encoder=replace(TINY.encoder, conv_kernel=1, context=1, pooling_window=1)),
)

frame_counts = st.lists(st.one_of(st.integers(0, 70), st.sampled_from((0, 1, 15, 32, 64, 200, 1500))), max_size=12).map(
    lambda counts: np.array(counts, np.int64)
)
configs = st.sampled_from(CONFIGS)
# Lengths of a few frames, with every remainder that may matter to the framing.
clip_lengths = st.lists(
    st.one_of(st.integers(0, 4_000), st.integers(0, 6).map(lambda n: n * FRAME_SAMPLES)), max_size=7
)


def clip_ranges(frames: Table) -> list[list[int]]:
    """The frames of each clip in the packed row."""
    ends = np.cumsum(frames)
    return [list(range(end - size, end)) for end, size in zip(ends.tolist(), frames.tolist(), strict=True)]


@given(frame_counts, configs)
@example(np.array([], np.int64), TINY)
@example(np.array([0, 0], np.int64), TINY)
def test_windows_hold_every_frame_of_a_clip_once_in_order_and_nothing_else(frames: Table, config: ModelConfig) -> None:
    packing = pack_frames(frames, config)
    for table, width in (
        (packing.block, config.encoder.context),
        (packing.label, config.encoder.pooling_window),
        (packing.window, config.projector.window),
    ):
        expected = []
        for clip in clip_ranges(frames):
            for begin in range(0, len(clip), width):
                part = clip[begin : begin + width]
                expected.append(part + [-1] * (width - len(part)))
        assert table.shape == (len(expected), width)
        assert table.tolist() == expected


@given(frame_counts, configs)
def test_places_lead_back_to_the_frames(frames: Table, config: ModelConfig) -> None:
    packing = pack_frames(frames, config)
    row = np.arange(frames.sum())
    assert packing.block.reshape(-1)[packing.unblock].tolist() == row.tolist()
    gap = config.encoder.conv_kernel // 2
    assert packing.spaced[packing.unspace + gap].tolist() == row.tolist()


@given(frame_counts, configs)
def test_a_convolution_over_the_spaced_row_meets_the_frames_of_one_clip_alone(
    frames: Table, config: ModelConfig
) -> None:
    packing, kernel = pack_frames(frames, config), config.encoder.conv_kernel
    for clip in clip_ranges(frames):
        for frame in clip:
            begin = packing.unspace[frame]
            near = packing.spaced[begin : begin + kernel].tolist()
            wanted = [frame + step - kernel // 2 for step in range(kernel)]
            assert near == [at if clip[0] <= at <= clip[-1] else -1 for at in wanted]


@given(frame_counts, configs)
def test_counts_are_those_of_the_model(frames: Table, config: ModelConfig) -> None:
    packing = pack_frames(frames, config)
    each = config.projector.window // config.projector.downsample
    assert packing.labels.tolist() == [-(-count // config.encoder.pooling_window) for count in frames.tolist()]
    assert packing.audios.tolist() == [count // config.projector.downsample for count in frames.tolist()]
    assert packing.clip.tolist() == [number for number, count in enumerate(frames.tolist()) for _ in range(count)]
    kept, first = [], 0
    for count, audios in zip(frames.tolist(), packing.audios.tolist(), strict=True):
        kept += range(first, first + audios)
        first += -(-count // config.projector.window) * each
    assert packing.audio.tolist() == kept


@given(clip_lengths)
@example([])
@example([0, 319])
@example([320])
@example([639, 320, 360, 359])
def test_every_clip_is_framed_as_if_alone(lengths: list[int]) -> None:
    clips = [babble(length) for length in lengths]
    packing = pack_frames(frames_of(np.array(lengths, np.int64)), TINY)
    row = pack_samples(clips)
    assert row.dtype == np.int16
    assert len(row) == row_samples(packing.frames)
    expected = [window for clip in clips for window in centred_windows(clip)]
    assert len(packing.mel) == len(expected)
    for hop, window in zip(packing.mel.tolist(), expected, strict=True):
        np.testing.assert_array_equal(row[hop * HOP_SAMPLES : hop * HOP_SAMPLES + WINDOW_SAMPLES], window)


def centred_windows(clip: npt.NDArray[Any]) -> list[npt.NDArray[Any]]:
    """The windows of a clip's whole pairs of hops, centred on multiples of the hop, over numpy's own reflection."""
    count = 2 * (len(clip) // FRAME_SAMPLES)
    padded = np.pad(clip, WINDOW_SAMPLES // 2, mode="reflect") if count else clip
    return [padded[begin : begin + WINDOW_SAMPLES] for begin in range(0, count * HOP_SAMPLES, HOP_SAMPLES)]


@given(st.integers(320, 2_000))
def test_a_clip_end_matters_to_its_last_window_alone_and_only_if_it_is_near(length: int) -> None:
    """What padding a batch before the transform would spoil."""
    clip = babble(length) | 1  # never 0
    packing = pack_frames(frames_of(np.array([length])), TINY)
    row = pack_samples([clip])
    padded = np.concatenate([clip, np.zeros(WINDOW_SAMPLES, np.int16)])
    changed = [
        hop
        for hop, window in zip(packing.mel.tolist(), centred_windows(padded), strict=False)
        if (row[hop * HOP_SAMPLES :][:WINDOW_SAMPLES] != window).any()
    ]
    assert changed == [len(packing.mel) - 1] * (length % FRAME_SAMPLES < 40)


def test_samples_can_be_packed_into_a_buffer_of_another_type_and_size() -> None:
    clips = [babble(1_000), babble(3_217)]
    row = pack_samples(clips)
    buffer: Any = np.full(len(row) + 100, 7, np.float32)
    inside = pack_samples([clip + np.float32(0.25) for clip in clips], buffer)
    assert np.shares_memory(inside, buffer)
    np.testing.assert_array_equal(inside, row + np.float32(0.25))
    assert (buffer[len(row) :] == 7).all()


@given(clip_lengths)
@example([])
@example([0, 1])
@example([16_000, 320, 4_000])
def test_log_mels_of_a_packed_row_equal_a_naive_transform_of_each_clip(lengths: list[int]) -> None:
    clips = [babble(length) for length in lengths]
    packing = pack_frames(frames_of(np.array(lengths, np.int64)), TINY)
    samples = torch.from_numpy(pack_samples(clips)).float() / 32_768
    mel, clip = torch.from_numpy(packing.mel), torch.from_numpy(packing.clip)
    found = LogMel(torch.device("cpu"))(samples, mel, clip, len(clips)).numpy()
    expected = np.concatenate([np.empty((0, 160)), *(naive_log_mels(clip / 32_768) for clip in clips)])
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-4)


def naive_log_mels(clip: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """float64 [frames, 160], from the definition: each filter is a triangle between its neighbours' centres."""
    windows = np.array(centred_windows(clip)).reshape(-1, WINDOW_SAMPLES)
    if not len(windows):
        return np.empty((0, 160))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW_SAMPLES) / WINDOW_SAMPLES)
    power = np.abs(np.fft.rfft(windows * hann, 512)) ** 2
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8_000 / 700), 82) / 2595) - 1)
    hertz = np.arange(257) * 16_000 / 512
    filters = [np.interp(hertz, edges[n : n + 3], [0, 1, 0]) for n in range(80)]
    log = np.log10(np.maximum(power @ np.transpose(filters), 1e-10))
    return (np.maximum(log, log.max() - 8) / 4 + 1).reshape(-1, 160)


@st.composite
def edits(draw: st.DrawFn) -> tuple[Table, Table, list[Table]]:
    """Frames of a batch's clips, some of its clips in any order, a draft for each."""
    frames = draw(frame_counts)
    clips = draw(st.lists(st.integers(0, len(frames) - 1), unique=True)) if len(frames) else []
    tokens = st.lists(st.integers(0, 400), max_size=9).map(lambda ids: np.array(ids, np.int64))
    return frames, np.array(clips, np.int64), [draw(tokens) for _ in clips]


@given(edits(), configs)
@example((np.array([], np.int64), np.array([], np.int64), []), TINY)
@example((np.array([0, 4], np.int64), np.array([1, 0]), [np.array([], np.int64), np.array([3, 3])]), TINY)
def test_the_editor_reads_each_clip_as_its_audio_and_then_its_slots(
    edit: tuple[Table, Table, list[Table]], config: ModelConfig
) -> None:
    frames, clips, drafts = edit
    packing = pack_frames(frames, config)
    found = pack_edit(packing, clips, drafts, config)
    ends = np.cumsum(packing.audios)
    source: list[int] = []
    position: list[int] = []
    text: list[int] = []
    tokens: list[int] = []
    for clip, ids in zip(clips.tolist(), drafts, strict=True):
        slots = [config.blank_id]
        for token in ids.tolist():
            slots += [token, config.blank_id]
        slots += [config.blank_id] * (config.min_slots - len(slots))
        audios = list(range(ends[clip] - packing.audios[clip], ends[clip]))
        text += range(len(source) + len(audios), len(source) + len(audios) + len(slots))
        source += audios + list(range(len(packing.audio) + len(tokens), len(packing.audio) + len(tokens) + len(slots)))
        position += range(len(audios) + len(slots))
        tokens += slots
    assert found.tokens.tolist() == tokens
    assert found.source.tolist() == source
    assert found.position.tolist() == position
    assert found.text.tolist() == text
    assert found.slots.tolist() == [max(2 * len(ids) + 1, config.min_slots) for ids in drafts]
    assert found.lengths.tolist() == (packing.audios[clips] + found.slots).tolist()


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (319, 0), (320, 1), (639, 1), (640, 2), (480_000, 1_500)])
def test_a_frame_is_a_whole_pair_of_hops(samples: int, frames: int) -> None:
    assert frames_of(np.array([samples])).tolist() == [frames]
