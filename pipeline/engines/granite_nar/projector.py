"""From the encoder's four taps to audio embeddings for the editor: three for every window of fifteen frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - the field's name for it
from torch import Tensor

from pipeline.engines.granite_nar.config import ProjectorConfig
from pipeline.engines.granite_nar.encoder import linear
from pipeline.engines.granite_nar.weights import Projector, WindowAttention


def project(taps: Sequence[Tensor], window: Tensor, weights: Projector, config: ProjectorConfig) -> Tensor:
    """taps [M, hidden of the encoder] each, window [W, frames] with -1 for none → [W * embeddings, hidden].

    Not divided by the embedding multiplier. The windows of all clips stand behind one another.
    """
    fused = F.gelu(linear(torch.cat([_normed(tap, config) for tap in taps], -1), weights.fuse))
    frames = torch.where((window >= 0)[..., None], fused[window.clamp_min(0)], 0)  # [W, frames, hidden]
    query = weights.queries + frames.unflatten(1, (-1, config.downsample)).mean(2)
    context = frames + weights.positions
    for layer in weights.layers:
        query = query + _attend(_normed(query, config), context, layer, config.heads)
        query = query + linear(F.silu(linear(_normed(query, config), layer.up)), layer.down)
    return linear(_normed(query, config), weights.out).flatten(0, 1)


def _attend(query: Tensor, context: Tensor, weights: WindowAttention, heads: int) -> Tensor:
    q = linear(query, weights.query).unflatten(-1, (heads, -1)).transpose(1, 2)
    k, v = linear(context, weights.key_value).unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return linear(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), weights.out)


def _normed(x: Tensor, config: ProjectorConfig) -> Tensor:
    # The affine parts are identities in every published checkpoint; loading asserts it.
    return F.layer_norm(x, (x.shape[-1],), eps=config.eps)
