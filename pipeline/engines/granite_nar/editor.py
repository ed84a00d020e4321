"""The bidirectional language model over one packed row: each clip's audio embeddings, then its slots.

Positions restart with every clip, attention stays within it, and only slots are read by the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from pipeline.engines.granite_nar.attention import Spans, packed_attention
from pipeline.engines.granite_nar.config import EditorConfig
from pipeline.engines.granite_nar.encoder import linear
from pipeline.engines.granite_nar.weights import Editor, EditorBlock


class Rotation(NamedTuple):
    """Rotary positions of every row, [P, 1, head_dim] each."""

    cos: Tensor
    sin: Tensor


def rotate_by(position: Tensor, config: EditorConfig, dtype: torch.dtype) -> Rotation:
    """Angles of half-split rotary embedding, computed in float32 as the reference does."""
    even = torch.arange(0, config.head_dim, 2, dtype=torch.int64, device=position.device).float()
    angle = position[:, None].float() / (config.rope_theta ** (even / config.head_dim))
    angle = torch.cat([angle, angle], -1)[:, None, :]
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))


def embed(audio: Tensor, tokens: Tensor, source: Tensor, weights: Editor, config: EditorConfig) -> Tensor:
    """Audio embeddings [A, hidden] (already scaled) and token ids [S] in the order of the row → [P, hidden]."""
    slots = weights.embedding[tokens] * config.embedding_multiplier
    return torch.cat([audio, slots])[source]


def run_blocks(
    h: Tensor,
    rotation: Rotation,
    spans: Spans,
    weights: Editor,
    config: EditorConfig,
    before: Callable[..., tuple[Tensor, Tensor, Tensor]],
    after: Callable[..., Tensor],
) -> Tensor:
    """All layers over [P, hidden]. `before` and `after`: `before_attention` and `after_attention`, or compiled."""
    for block in weights.blocks:
        q, k, v = before(h, rotation, block, config)
        attended = packed_attention(q, k, v, spans, config.attention_multiplier)
        h = after(h, attended, block, config)
    return h


def before_attention(
    h: Tensor, rotation: Rotation, weights: EditorBlock, config: EditorConfig
) -> tuple[Tensor, Tensor, Tensor]:
    """[P, hidden] → q [P, heads, head_dim], k and v [P, kv_heads, head_dim], rotated."""
    x = linear(rms_norm(h, weights.attention_norm, config.eps), weights.qkv).unflatten(-1, (-1, config.head_dim))
    q, k, v = x.split((config.heads, config.kv_heads, config.kv_heads), 1)
    return _rotated(q, rotation), _rotated(k, rotation), v


def after_attention(h: Tensor, attended: Tensor, weights: EditorBlock, config: EditorConfig) -> Tensor:
    """The rest of a layer."""
    h = h + linear(attended.flatten(1), weights.out) * config.residual_multiplier
    gate, up = linear(rms_norm(h, weights.mlp_norm, config.eps), weights.gate_up).chunk(2, -1)
    return h + linear(F.silu(gate) * up, weights.down) * config.residual_multiplier


def rms_norm(h: Tensor, weight: Tensor, eps: float) -> Tensor:
    """In float32 inside, as the reference does."""
    x = h.float()
    return weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)).to(h.dtype)


def _rotated(x: Tensor, rotation: Rotation) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * rotation.cos + torch.cat([-second, first], -1) * rotation.sin
