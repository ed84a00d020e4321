"""Where the clips of a batch lie in the packed rows of the model: pure numpy, lengths in, indices out.

Clips stand behind one another without padding: frames of all clips in one row, then windows of all clips, then audio embeddings
and text slots of all clips. Every index array here says where a step reads; -1 means "nothing there, zeros". Knows no tensors
and no device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.engines.granite_nar.config import ModelConfig

HOP_SAMPLES = 160  # 10 ms at 16 kHz
WINDOW_SAMPLES = 400  # the STFT's window; a frame is centred on a multiple of the hop
FRAME_SAMPLES = 2 * HOP_SAMPLES  # an encoder frame is two stacked mel frames: 50 Hz
_LEAD_SAMPLES = WINDOW_SAMPLES // 2

Ints = npt.NDArray[np.int64]
Samples = npt.NDArray[np.int16]


def frames_of(n_samples: Ints) -> Ints:
    """Encoder frames of clips with so many samples: whole pairs of hops (granite.md's step 1: (s // 160) // 2)."""
    return n_samples // FRAME_SAMPLES


@dataclass(frozen=True, slots=True, eq=False)
class FramePacking:
    """The packed rows of everything up to the draft and the projector, for clips of `frames` [B] frames each.

    M = frames.sum() encoder frames, L label windows, W projector windows, K attention blocks.
    """

    frames: Ints  # [B]
    mel: Ints  # [2 M] hop position in the packed samples of every mel frame
    clip: Ints  # [M] clip of every frame
    block: Ints  # [K, context] frame in every place of an attention block; -1: none
    unblock: Ints  # [M] place of every frame in `block`, flattened
    spaced: Ints  # [G] frame in every place of the row with gaps of conv_kernel // 2 around the clips; -1: a gap
    unspace: Ints  # [M] place of every frame in `spaced`, counted from the first gap's end
    label: Ints  # [L, pooling_window] frame in every place of a label window; -1: none
    window: Ints  # [W, window] frame in every place of a projector window; -1: none
    audio: Ints  # [A] rows of the projector's output ([W * window // downsample]) that are kept
    labels: Ints  # [B] label windows of each clip
    audios: Ints  # [B] audio embeddings of each clip


def pack_frames(frames: Ints, config: ModelConfig) -> FramePacking:
    """Lay out clips of `frames` [B] encoder frames. Pure; vectorised over clips."""
    encoder, projector = config.encoder, config.projector
    each = projector.window // projector.downsample
    windows = -(-frames // projector.window)
    audios = frames // projector.downsample
    block, unblock = _cut(frames, encoder.context)
    spaced, unspace = _space(frames, encoder.conv_kernel // 2)
    return FramePacking(
        frames=frames,
        mel=_ranges(2 * frames) + np.repeat(_starts(_hops(frames)), 2 * frames),
        clip=np.repeat(np.arange(len(frames)), frames),
        block=block,
        unblock=unblock,
        spaced=spaced,
        unspace=unspace,
        label=_cut(frames, encoder.pooling_window)[0],
        window=_cut(frames, projector.window)[0],
        audio=_ranges(audios) + np.repeat(_starts(windows * each), audios),
        labels=-(-frames // encoder.pooling_window),
        audios=audios,
    )


@dataclass(frozen=True, slots=True, eq=False)
class EditPacking:
    """The editor's one row: for every clip its audio embeddings, then its text slots."""

    lengths: Ints  # [B] positions of each clip
    slots: Ints  # [B] text slots of each clip
    position: Ints  # [P] of every row within its clip
    source: Ints  # [P] row to read: all audio embeddings of the batch first, the slots' token embeddings behind
    text: Ints  # [S] rows that hold slots
    tokens: Ints  # [S] token ids in the slots


def pack_edit(packing: FramePacking, clips: Ints, drafts: Sequence[Ints], config: ModelConfig) -> EditPacking:
    """Lay out the editor's row for some `clips` [B] of a batch and the draft tokens of each.

    Slots: blanks with the draft at the odd places, `min_slots` at least (arXiv 2603.08397).
    """
    audios = packing.audios[clips]
    sizes = np.array([len(draft) for draft in drafts], np.int64)
    slots = np.maximum(2 * sizes + 1, config.min_slots)
    tokens = np.full(int(slots.sum()), config.blank_id, np.int64)
    if len(drafts):
        at = np.repeat(_starts(slots), sizes) + 2 * _ranges(sizes) + 1
        tokens[at] = np.concatenate(drafts)
    lengths = audios + slots
    position = _ranges(lengths)
    is_text = position >= np.repeat(audios, lengths)
    source = np.empty(len(position), np.int64)
    source[~is_text] = _ranges(audios) + np.repeat(_starts(packing.audios)[clips], audios)
    source[is_text] = len(packing.audio) + np.arange(len(tokens))
    return EditPacking(lengths, slots, position, source, np.flatnonzero(is_text), tokens)


def pack_samples(clips: Sequence[Samples], out: Samples | None = None) -> Samples:
    """All clips' samples in one row, each framed as if alone: reflected at both ends, starting on a multiple of the hop.

    int16 [sum(hops) * 160]; window `mel[i]` of the row, 400 samples from `mel[i] * 160`, is mel frame i. A clip of fewer than
    320 samples has no frame and takes no room. `out`: written into instead of a new array.
    """
    lengths = np.array([len(clip) for clip in clips], np.int64)
    hops = _hops(frames_of(lengths))
    ends = np.cumsum(hops) * HOP_SAMPLES
    row = np.empty(int(hops.sum()) * HOP_SAMPLES, np.int16) if out is None else out[: int(hops.sum()) * HOP_SAMPLES]
    for clip, size, end in zip(clips, hops * HOP_SAMPLES, ends, strict=True):
        if not size:
            continue
        part = row[end - size : end]
        kept = min(len(clip), size - _LEAD_SAMPLES)
        part[:_LEAD_SAMPLES] = clip[_LEAD_SAMPLES:0:-1]
        part[_LEAD_SAMPLES : _LEAD_SAMPLES + kept] = clip[:kept]
        rest = size - _LEAD_SAMPLES - kept
        part[size - rest :] = clip[-2 : -2 - rest : -1] if rest else 0
    return row


def row_samples(frames: Ints) -> int:
    """Length of `pack_samples`' row for clips of so many frames."""
    return int(_hops(frames).sum()) * HOP_SAMPLES


def _hops(frames: Ints) -> Ints:
    """Hops that a clip takes in the packed samples: the last window begins at hop 2 T - 1 and is 2.5 hops long."""
    return np.where(frames > 0, 2 * frames + 2, 0)


def _starts(sizes: Ints) -> Ints:
    return np.cumsum(sizes) - sizes


def _ranges(sizes: Ints) -> Ints:
    """0 … size-1 for every size, behind one another."""
    return np.arange(int(sizes.sum())) - np.repeat(_starts(sizes), sizes)


def _cut(frames: Ints, width: int) -> tuple[Ints, Ints]:
    """Cut every clip into windows of `width` frames: frames in each window (-1: none), place of each frame."""
    counts = -(-frames // width)
    place = _ranges(frames) + np.repeat(_starts(counts) * width, frames)
    table = np.full(int(counts.sum()) * width, -1, np.int64)
    table[place] = np.arange(int(frames.sum()))
    return table.reshape(-1, width), place


def _space(frames: Ints, gap: int) -> tuple[Ints, Ints]:
    """Clips with gaps before, between and behind them: frame in each place (-1: a gap); place of each frame less one gap."""
    place = np.arange(int(frames.sum())) + np.repeat(np.arange(len(frames)) * gap, frames)
    row = np.full(int(frames.sum()) + (len(frames) + 1) * gap, -1, np.int64)
    row[place + gap] = np.arange(int(frames.sum()))
    return row, place
