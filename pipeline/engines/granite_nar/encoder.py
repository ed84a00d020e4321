"""The Conformer over one packed row of frames: no padding in any product, nothing crosses from clip to clip.

Attention is block-wise (200 frames): frames are folded into [blocks, heads, context, head_dim], where Shaw's relative positions
are an additive mask, so that a fused scaled-dot-product kernel serves it. Source: the Granite Speech encoder's description in
arXiv 2505.08699 and the published configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from pipeline.engines.granite_nar.config import EncoderConfig
from pipeline.engines.granite_nar.weights import (
    BlockAttention,
    Convolution,
    Encoder,
    EncoderBlock,
    FeedForward,
    Linear,
    Norm,
)

_EPS = 1e-5


class FrameIndex(NamedTuple):
    """Index tensors of a packed row of M frames (see `packing.FramePacking`)."""

    block: Tensor  # [K, context] frame in every place of an attention block; -1: none
    unblock: Tensor  # [M] place of every frame in `block`, flattened
    spaced: Tensor  # [G] the row with gaps between the clips, for the convolution; -1: a gap
    unspace: Tensor  # [M] place of every frame in `spaced`


class Encoded(NamedTuple):
    """What the encoder gives for M frames."""

    taps: tuple[Tensor, ...]  # [M, hidden] each; the last one is the encoder's output
    blank: Tensor  # [M] float32: probability that the middle head gives no character


def encode(
    x: Tensor, places: FrameIndex, weights: Encoder, config: EncoderConfig, run_block: Callable[..., Tensor]
) -> Encoded:
    """Features [M, input_dim] → taps and blank probabilities.

    `x` has the weights' type; `run_block`: `encoder_block`, or compiled.
    """
    if not len(x):  # clips without a frame: nothing to gather from
        nothing = x.new_zeros(0, config.hidden)
        return Encoded((nothing,) * len(config.taps), x.new_zeros(0, dtype=torch.float32))
    h = linear(x, weights.input)
    taps: list[Tensor] = []
    blank = torch.zeros(0)
    for number, block in enumerate(weights.blocks, 1):
        h = run_block(h, places, block, config.heads)
        if number == config.self_conditioning_layer:
            h, blank = self_condition(h, weights)
        if number in config.taps:  # after the self-conditioning: so the published weights were trained
            taps.append(h)
    return Encoded(tuple(taps), blank)


def encoder_block(h: Tensor, places: FrameIndex, weights: EncoderBlock, heads: int) -> Tensor:
    """One Conformer block over [M, hidden]."""
    h = h + feed_forward(h, weights.first)
    h = h + block_attention(h, places, weights.attention, heads)
    h = h + convolution(h, places, weights.convolution)
    h = h + feed_forward(h, weights.second)
    return layer_norm(h, weights.norm)


def self_condition(h: Tensor, weights: Encoder) -> tuple[Tensor, Tensor]:
    """Feed the middle head's posteriors back; also its blank probability, float32 [M]."""
    posteriors = torch.softmax(linear(h, weights.characters).float(), -1)
    return h + linear(posteriors.to(h.dtype), weights.conditioning), posteriors[:, 0]


def feed_forward(h: Tensor, weights: FeedForward) -> Tensor:
    """[M, hidden] → half the feed-forward step, [M, hidden]."""
    return linear(F.silu(linear(layer_norm(h, weights.norm), weights.up)), weights.down)


def block_attention(h: Tensor, places: FrameIndex, weights: BlockAttention, heads: int) -> Tensor:
    """[M, hidden] → [M, hidden]; inside blocks of `context` frames, every frame sees every other of its clip."""
    context = places.block.shape[1]
    qkv = linear(layer_norm(h, weights.norm), weights.qkv)
    folded = qkv[places.block.clamp_min(0)].unflatten(-1, (3, heads, -1))  # [K, context, 3, heads, head_dim]
    q, k, v = folded.permute(2, 0, 3, 1, 4).contiguous().unbind(0)
    scale = q.shape[-1] ** -0.5
    mask = _shaw(q, weights.relative, context) * scale
    mask = mask.masked_fill((places.block < 0)[:, None, None, :], torch.finfo(mask.dtype).min)
    attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
    return linear(attended.transpose(1, 2).flatten(2).flatten(0, 1)[places.unblock], weights.out)


def _shaw(q: Tensor, relative: Tensor, context: int) -> Tensor:
    """q·R by distance: q [K, heads, context, head_dim], relative [2 context, head_dim] → [K, heads, context, context].

    One product gives every query against every distance; place (i, j) wants column j - i + context - 1. Read with rows one
    element shorter, the product has those columns straight below each other: the skew is a view.
    """
    product = (q.flatten(0, 2) @ relative.t()).view(*q.shape[:2], -1)  # [K, heads, context * 2 context]
    rows = product[..., context - 1 : context - 1 + context * (2 * context - 1)]
    skewed: Tensor = rows.unflatten(-1, (context, 2 * context - 1))
    return skewed[..., :context]


def convolution(h: Tensor, places: FrameIndex, weights: Convolution) -> Tensor:
    """[M, hidden] → [M, hidden]; the gaps keep the depthwise taps within the clip."""
    x = F.glu(linear(layer_norm(h, weights.norm), weights.up), -1)
    spaced = torch.where((places.spaced >= 0)[:, None], x[places.spaced.clamp_min(0)], 0)
    x = F.silu(depthwise(spaced, weights)).to(h.dtype)
    # The gaps go last: a few rows more in the product cost less than a pass over memory to take them out before it.
    return linear(x, weights.down)[places.unspace]


def depthwise(x: Tensor, weights: Convolution) -> Tensor:
    """[G, channels] → [G - kernel + 1, channels], in the taps' type: shifted rows added up, compiled one pass over memory."""
    kernel = len(weights.taps)
    rows = len(x) - kernel + 1
    total = weights.shift.expand(rows, -1).clone()
    for tap in range(kernel):
        total.addcmul_(x[tap : tap + rows].to(total.dtype), weights.taps[tap])
    return total


def layer_norm(h: Tensor, weights: Norm) -> Tensor:
    """Over the last axis."""
    return F.layer_norm(h, (h.shape[-1],), weights.weight, weights.bias, _EPS)


def linear(x: Tensor, weights: Linear) -> Tensor:
    """x Wᵀ + b."""
    return F.linear(x, weights.weight, weights.bias)
