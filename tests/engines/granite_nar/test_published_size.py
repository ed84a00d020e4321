"""The published sizes: the whole model without memory, and single layers of it against plain loops in float64.

The loops follow the description of the model step by step (one frame, one head, one block at a time) and share no code with it.
"""

from __future__ import annotations

from dataclasses import replace

import models
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline.engines.granite_nar import encoder
from pipeline.engines.granite_nar.checkpoint import expected_tensors, is_counter, parameter_counts
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.packing import pack_frames
from pipeline.engines.granite_nar.weights import BlockAttention, Convolution, Linear, Norm, build_weights

PUBLISHED = ModelConfig()
FRAMES = (1, 7, 199, 200, 201, 399, 400, 1500)  # a frame more or less than a block, multiples of one, 30 s


def test_the_whole_model_is_built_on_the_meta_device() -> None:
    asked: list[str] = []
    shapes = expected_tensors(PUBLISHED)

    def get(name: str) -> Tensor:
        asked.append(name)
        return torch.empty(shapes[name], dtype=torch.int64 if is_counter(name) else torch.bfloat16, device="meta")

    weights = build_weights(get, PUBLISHED, dtype=torch.bfloat16, device=torch.device("meta"))
    identities = {name for name in shapes if name.startswith("projector") and "norm" in name}
    assert sorted(asked) == sorted(set(shapes) - identities)
    assert (len(weights.encoder.blocks), len(weights.editor.blocks)) == (16, 40)
    assert weights.editor.embedding.shape == (100_352, 2048)
    counts = parameter_counts(PUBLISHED)
    assert [round(counts[part] / 1e6, 1) for part in ("encoder", "draft_head", "projector", "editor")] == [
        440.2,
        102.9,
        79.8,
        1631.8,
    ]
    assert round(sum(counts.values()) / 1e6, 1) == 2254.6


def test_attention_in_blocks_of_200_frames_equals_the_loop() -> None:
    config = replace(PUBLISHED, encoder=replace(PUBLISHED.encoder, hidden=64, heads=2, head_dim=128))
    random = torch.Generator().manual_seed(0)
    table = draw(random, 2 * 512 + 1, 128)
    qkv, out = draw(random, 3 * 256, 64), draw(random, 64, 256)
    reach = torch.arange(199, -201, -1)
    weights = BlockAttention(
        Norm(torch.ones(64).double(), torch.zeros(64).double()),
        Linear(qkv, None),
        table[reach + 512],
        Linear(out, torch.zeros(64).double()),
    )
    clips = [draw(random, frames, 64) * 3 for frames in FRAMES]
    places = index_of(config)
    found = encoder.block_attention(torch.cat(clips), places, weights, 2)
    for clip, part in zip(clips, found.split(FRAMES), strict=True):
        torch.testing.assert_close(part, loop_attention(clip, qkv, out, table), rtol=0, atol=1e-9)


def test_the_convolution_of_15_taps_equals_the_loop() -> None:
    config = replace(PUBLISHED, encoder=replace(PUBLISHED.encoder, hidden=8, conv_inner=16))
    random = torch.Generator().manual_seed(1)
    up, down, taps, shift = draw(random, 32, 8), draw(random, 8, 16), draw(random, 15, 16), draw(random, 16)
    norm = Norm(torch.ones(8).double(), torch.zeros(8).double())
    bias = draw(random, 32)  # makes gaps that are not zeroed show
    weights = Convolution(norm, Linear(up, bias), taps, shift, Linear(down, torch.zeros(8).double()))
    clips = [draw(random, frames, 8) for frames in FRAMES]
    found = encoder.convolution(torch.cat(clips), index_of(config), weights)
    for clip, part in zip(clips, found.split(FRAMES), strict=True):
        x = torch.nn.functional.layer_norm(clip, (8,)) @ up.T + bias
        gated = x[:, :16] * torch.sigmoid(x[:, 16:])
        for frame in {0, len(clip) // 3, len(clip) // 2, len(clip) - 1}:
            total = shift.clone()
            for tap in range(15):
                if 0 <= frame + tap - 7 < len(clip):
                    total += taps[tap] * gated[frame + tap - 7]
            torch.testing.assert_close(part[frame], (total * torch.sigmoid(total)) @ down.T, rtol=0, atol=1e-9)


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_layers_of_published_width_in_bfloat16_follow_float32_on_the_gpu(compiled: bool) -> None:
    """Two layers of full width: the very kernels of production. Labels of the draft and the editor must mostly agree."""
    device = torch.device("cuda")
    config = replace(
        PUBLISHED,
        encoder=replace(PUBLISHED.encoder, layers=4, taps=(1, 2, 3, 4), self_conditioning_layer=2),
        editor=replace(PUBLISHED.editor, layers=2),
    )
    clips = [models.babble(int(seconds * 16_000)) for seconds in (0.1, 3.99, 4.0, 4.01, 8.0, 17.3, 30.0)]
    heard = []
    for dtype, backend in ((torch.float32, "sdpa"), (torch.bfloat16, "varlen")):
        weights = models.random_weights(config, seed=0, dtype=dtype, device=device)
        model = models.Model(
            weights,
            config,
            models.DraftLabels(config.blank_id, 0),
            backend=backend,
            compiled=compiled and dtype != torch.float32,
        )
        with torch.inference_mode():
            begun = model.begin(batch := model.pack(clips, round_to=256), model.upload(batch))
            draft = begun.labels.wait()[0]
            drafts = [np.arange(1, 4) for _ in clips]
            edited = model.edit(begun, np.arange(len(clips)), drafts).labels.wait()[0]
        heard.append((draft, edited))
    (draft, edited), (draft_half, edited_half) = heard
    assert np.mean(draft == draft_half) > 0.9
    assert np.mean(edited == edited_half) > 0.9


def draw(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=random, dtype=torch.float64) / shape[-1] ** 0.5


def index_of(config: ModelConfig) -> encoder.FrameIndex:
    packing = pack_frames(np.array(FRAMES), config)
    tables = (packing.block, packing.unblock, packing.spaced, packing.unspace)
    return encoder.FrameIndex(*map(torch.from_numpy, tables))


def loop_attention(clip: Tensor, qkv: Tensor, out: Tensor, table: Tensor) -> Tensor:
    x = torch.nn.functional.layer_norm(clip, (64,)) @ qkv.T
    rows = []
    for begin in range(0, len(clip), 200):
        block = x[begin : begin + 200]
        size = len(block)
        heads = []
        for head in range(2):
            q, k, v = (block[:, part * 256 + head * 128 : part * 256 + (head + 1) * 128] for part in range(3))
            distance = torch.arange(size)[:, None] - torch.arange(size)
            position = (q[:, None, :] * table[distance + 512]).sum(-1)
            heads.append(torch.softmax((q @ k.T + position) / 128**0.5, -1) @ v)
        rows.append(torch.cat(heads, -1) @ out.T)
    return torch.cat(rows)
