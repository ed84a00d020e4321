"""The model's tensors as the code wants them: fused where a fused product is faster, folded where that is exact.

`build_weights` asks for every canonical name (those of the published remote code; `checkpoint` maps other layouts onto them)
exactly once. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.engines.granite_nar.config import EditorConfig, EncoderConfig, ModelConfig, ProjectorConfig

Get = Callable[[str], Tensor]  # canonical name → tensor, on any device, in any floating type
BATCH_NORM_EPS = 1e-5
_HALF = 0.5  # a power of two: folding it is exact in every floating type


class Linear(NamedTuple):
    """y = x Wᵀ + b; `weight` [out, in]."""

    weight: Tensor
    bias: Tensor | None


class Norm(NamedTuple):
    """A layer norm's affine part, [width] each."""

    weight: Tensor
    bias: Tensor


class FeedForward(NamedTuple):
    """Half a feed-forward step: the ½ of the Macaron residual is in `down`."""

    norm: Norm
    up: Linear
    down: Linear


class BlockAttention(NamedTuple):
    """Attention inside blocks with Shaw's relative positions."""

    norm: Norm
    qkv: Linear  # [3 * heads * head_dim, hidden]
    relative: (
        Tensor  # [2 * context, head_dim]; row r belongs to distance i - j = context - 1 - r; the last one is not used
    )
    out: Linear


class Convolution(NamedTuple):
    """The convolution module; its batch norm is folded into `taps` and `shift`, which stay in float32."""

    norm: Norm
    up: Linear
    taps: Tensor  # [kernel, channels]
    shift: Tensor  # [channels]
    down: Linear


class EncoderBlock(NamedTuple):
    """One Conformer block."""

    first: FeedForward
    attention: BlockAttention
    convolution: Convolution
    second: FeedForward
    norm: Norm


class Encoder(NamedTuple):
    """The Conformer, its middle CTC head with the way back, and the head of the draft."""

    input: Linear
    blocks: tuple[EncoderBlock, ...]
    characters: Linear
    conditioning: Linear
    draft: Linear


class WindowAttention(NamedTuple):
    """One layer of the Q-Former: the windows' queries look at the windows' frames."""

    query: Linear
    key_value: Linear
    out: Linear
    up: Linear
    down: Linear


class Projector(NamedTuple):
    """From four encoder taps to audio embeddings."""

    fuse: Linear
    queries: Tensor  # [window // downsample, hidden]
    positions: Tensor  # [window, hidden]
    layers: tuple[WindowAttention, ...]
    out: Linear


class EditorBlock(NamedTuple):
    """One layer of the language model; no biases."""

    attention_norm: Tensor
    qkv: Linear  # [(heads + 2 * kv_heads) * head_dim, hidden]
    out: Linear
    mlp_norm: Tensor
    gate_up: Linear  # gate first
    down: Linear


class Editor(NamedTuple):
    """The language model; the embedding is its head as well."""

    embedding: Tensor  # [vocabulary, hidden]
    blocks: tuple[EditorBlock, ...]
    norm: Tensor


class Weights(NamedTuple):
    """A whole model."""

    encoder: Encoder
    projector: Projector
    editor: Editor


def build_weights(get: Get, config: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> Weights:
    """Fuse and fold. Folding happens in float64, so that it costs no accuracy in any `dtype`."""

    def take(name: str) -> Tensor:
        return get(name).to(device=device, dtype=dtype)

    return Weights(
        encoder=build_encoder(get, config.encoder, dtype=dtype, device=device),
        projector=_projector(take, config.projector),
        editor=_editor(take, config.editor),
    )


def _linear(take: Get, name: str) -> Linear:
    return Linear(take(f"{name}.weight"), take(f"{name}.bias"))


def _norm(take: Get, name: str) -> Norm:
    return Norm(take(f"{name}.weight"), take(f"{name}.bias"))


def build_encoder(
    get: Get,
    config: EncoderConfig,
    *,
    dtype: torch.dtype,
    device: torch.device,
    draft: str = "encoder.out_bpe",
) -> Encoder:
    """The encoder alone. `draft`: the draft's head; models without one of its own draft characters with "encoder.out"."""

    def take(name: str) -> Tensor:
        return get(name).to(device=device, dtype=dtype)

    def exact(name: str) -> Tensor:
        return get(name).to(device=device, dtype=torch.float64)

    return Encoder(
        input=_linear(take, "encoder.input_linear"),
        blocks=tuple(_encoder_block(take, exact, f"encoder.layers.{n}", config, dtype) for n in range(config.layers)),
        characters=_linear(take, "encoder.out"),
        conditioning=_linear(take, "encoder.out_mid"),
        draft=_linear(take, draft),
    )


def _encoder_block(take: Get, exact: Get, name: str, config: EncoderConfig, dtype: torch.dtype) -> EncoderBlock:
    return EncoderBlock(
        first=_feed_forward(take, f"{name}.ff1"),
        attention=_block_attention(take, f"{name}.attn", config),
        convolution=_convolution(take, exact, f"{name}.conv", dtype),
        second=_feed_forward(take, f"{name}.ff2"),
        norm=_norm(take, f"{name}.post_norm"),
    )


def _feed_forward(take: Get, name: str) -> FeedForward:
    down = _linear(take, f"{name}.down_proj")
    assert down.bias is not None
    half = Linear(down.weight * _HALF, down.bias * _HALF)
    return FeedForward(_norm(take, f"{name}.pre_norm"), _linear(take, f"{name}.up_proj"), half)


def _block_attention(take: Get, name: str, config: EncoderConfig) -> BlockAttention:
    qkv = torch.cat([take(f"{name}.to_q.weight"), take(f"{name}.to_kv.weight")])
    # One row more than there are distances: an even width, which tensor cores want.
    distances = torch.arange(config.context - 1, -config.context - 1, -1).clamp(
        -config.max_distance, config.max_distance
    )
    table = take(f"{name}.rel_pos_emb.weight")
    relative = table[(distances + config.max_distance).to(table.device)]
    return BlockAttention(_norm(take, f"{name}.pre_norm"), Linear(qkv, None), relative, _linear(take, f"{name}.to_out"))


def _convolution(take: Get, exact: Get, name: str, dtype: torch.dtype) -> Convolution:
    norm = f"{name}.batch_norm"
    get_counter = exact(f"{norm}.num_batches_tracked")  # asked for, so that every tensor of the file has a place
    del get_counter
    scale = exact(f"{norm}.weight") / torch.sqrt(exact(f"{norm}.running_var") + BATCH_NORM_EPS)
    shift = exact(f"{norm}.bias") - exact(f"{norm}.running_mean") * scale
    taps = exact(f"{name}.depth_conv.conv.weight")[:, 0, :] * scale[:, None]
    kept = torch.float64 if dtype == torch.float64 else torch.float32
    up, down = _linear(take, f"{name}.up_conv"), _linear(take, f"{name}.down_conv")
    return Convolution(
        norm=_norm(take, f"{name}.norm"),
        up=Linear(up.weight[:, :, 0], up.bias),
        taps=taps.t().contiguous().to(kept),
        shift=shift.to(kept),
        down=Linear(down.weight[:, :, 0], down.bias),
    )


def _projector(take: Get, config: ProjectorConfig) -> Projector:
    return Projector(
        fuse=_linear(take, "projector.layer_projector"),
        queries=take("projector.query")[0],
        positions=take("projector.window_positions")[0],
        layers=tuple(_window_attention(take, f"projector.qformer.layers.{n}") for n in range(config.layers)),
        out=_linear(take, "projector.out_linear"),
    )


def _window_attention(take: Get, name: str) -> WindowAttention:
    cross = f"{name}.cross_attention"
    key, value = _linear(take, f"{cross}.k_proj"), _linear(take, f"{cross}.v_proj")
    assert key.bias is not None
    assert value.bias is not None
    return WindowAttention(
        query=_linear(take, f"{cross}.q_proj"),
        key_value=Linear(torch.cat([key.weight, value.weight]), torch.cat([key.bias, value.bias])),
        out=_linear(take, f"{cross}.o_proj"),
        up=_linear(take, f"{name}.mlp.fc1"),
        down=_linear(take, f"{name}.mlp.fc2"),
    )


def _editor(take: Get, config: EditorConfig) -> Editor:
    return Editor(
        embedding=take("language_model.model.embed_tokens.weight"),
        blocks=tuple(_editor_block(take, f"language_model.model.layers.{n}") for n in range(config.layers)),
        norm=take("language_model.model.norm.weight"),
    )


def _editor_block(take: Get, name: str) -> EditorBlock:
    def weights(*parts: str) -> Linear:
        return Linear(torch.cat([take(f"{name}.{part}.weight") for part in parts]), None)

    return EditorBlock(
        attention_norm=take(f"{name}.input_layernorm.weight"),
        qkv=weights("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        out=weights("self_attn.o_proj"),
        mlp_norm=take(f"{name}.post_attention_layernorm.weight"),
        gate_up=weights("mlp.gate_proj", "mlp.up_proj"),
        down=weights("mlp.down_proj"),
    )
