"""The sizes and constants of a Granite Speech NAR model, read from the `config.json` of any published layout.

Pure: JSON in, frozen records out. Knows no tensors and no files. Names differ between the layouts (remote code "A" and "B", the
native port "D"); here every quantity has one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """A Conformer over 50 Hz frames with attention inside blocks of `context` frames."""

    input_dim: int = 160  # two stacked frames of 80 log-mels
    layers: int = 16
    hidden: int = 1024
    heads: int = 8
    head_dim: int = 128
    feedforward: int = 4096
    conv_kernel: int = 15
    conv_inner: int = 2048  # channels of the depthwise convolution, after the gate
    context: int = 200  # frames of one attention block (4 s)
    max_distance: int = 512  # the table of relative positions has 2 * max_distance + 1 rows
    characters: int = 348  # labels of the middle CTC head; only its softmax is used
    pooling_window: int = 4  # frames of one label of the draft
    self_conditioning_layer: int = 8  # 1-based: after this block
    taps: tuple[int, ...] = (4, 8, 12, 16)  # 1-based blocks whose output the projector reads


@dataclass(frozen=True, slots=True)
class ProjectorConfig:
    """A Q-Former over windows of frames: `window // downsample` audio embeddings for each."""

    hidden: int = 2048
    intermediate: int = 4096
    heads: int = 32
    layers: int = 2
    window: int = 15
    downsample: int = 5
    eps: float = 1e-6


@dataclass(frozen=True, slots=True)
class EditorConfig:
    """The bidirectional Granite language model that edits the draft."""

    vocabulary: int = 100_352
    hidden: int = 2048
    intermediate: int = 4096
    layers: int = 40
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 128
    eps: float = 1e-5
    rope_theta: float = 10_000.0
    max_positions: int = 4096
    embedding_multiplier: float = 12.0
    residual_multiplier: float = 0.22
    attention_multiplier: float = 0.0078125  # stands in place of 1 / sqrt(head_dim)
    logits_scale: float = 8.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A whole model. The defaults are the published one's."""

    encoder: EncoderConfig = EncoderConfig()
    projector: ProjectorConfig = ProjectorConfig()
    editor: EditorConfig = EditorConfig()
    blank_id: int = 100_257  # token of the empty slot; bos and eos at once
    min_slots: int = 8
    scale_projected: bool = True  # audio embeddings are divided by embedding_multiplier, which then undoes itself
