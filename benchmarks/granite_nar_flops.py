"""What a Granite NAR model has to compute: its matrix products, and useful floating-point operations, from sizes alone.

Useful is what the true lengths need; padding earns nothing. Two operations per multiply-add. Features, norms, activations and
softmaxes are not counted: below half a percent of the operations. Pure; needs numpy alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.engines.granite_nar.config import ModelConfig

Ints = npt.NDArray[np.int64]


class Rows(NamedTuple):
    """How many rows each kind of product has, over all clips of a batch."""

    frames: int  # of the encoder, 50 per second
    labels: int  # of the draft head, 12.5 per second
    keys: int  # frames that the projector's queries look at
    queries: int  # audio embeddings, 10 per second
    positions: int  # of the editor: audio embeddings and text slots
    slots: int  # that the head reads


class Product(NamedTuple):
    """[rows, inputs] by [inputs, outputs], so many times."""

    stage: str  # a field of StageFlops
    rows: int
    inputs: int
    outputs: int
    times: int

    @property
    def flops(self) -> int:
        """Of all times."""
        return 2 * self.rows * self.inputs * self.outputs * self.times


class StageFlops(NamedTuple):
    """Floating-point operations by stage."""

    encoder: int
    draft_head: int
    projector: int
    editor: int
    head: int

    @property
    def total(self) -> int:
        """Of the whole model."""
        return sum(self)


def useful_flops(config: ModelConfig, frames: Ints, audios: Ints, slots: Ints) -> StageFlops:
    """What clips of `frames` encoder frames, `audios` audio embeddings and `slots` text slots need, [B] each.

    A clip that does not go to the editor has 0 slots: its audio embeddings are computed, its editor positions are not.
    """
    edited = slots > 0
    positions = np.where(edited, audios + slots, 0)
    labels = -(-frames // config.encoder.pooling_window)
    rows = Rows(*(int(part.sum()) for part in (frames, labels, frames, audios, positions, slots)))
    flops = dict.fromkeys(StageFlops._fields, 0)
    for product in products(config, rows):
        flops[product.stage] += product.flops
    encoder, projector, editor = config.encoder, config.projector, config.editor
    whole, rest = np.divmod(frames, encoder.context)
    pairs = int((whole * encoder.context**2 + rest**2).sum())  # of frames that see each other
    inner = encoder.heads * encoder.head_dim
    # Scores, relative positions, values; then the depthwise convolution.
    flops["encoder"] += encoder.layers * (
        6 * pairs * inner + 2 * rows.frames * encoder.conv_inner * encoder.conv_kernel
    )
    flops["projector"] += projector.layers * 4 * rows.queries * projector.window * projector.hidden
    flops["editor"] += editor.layers * 4 * int((positions**2).sum()) * editor.heads * editor.head_dim
    return StageFlops(**flops)


def products(config: ModelConfig, rows: Rows) -> list[Product]:
    """Every product with weights, fused as `weights.py` fuses them."""
    encoder, projector, editor = config.encoder, config.projector, config.editor
    inner, layers, hidden = encoder.heads * encoder.head_dim, encoder.layers, encoder.hidden
    wide, depth, width = projector.hidden, projector.layers, editor.hidden
    attended = editor.heads * editor.head_dim
    qkv = attended + 2 * editor.kv_heads * editor.head_dim
    return [
        Product("encoder", rows.frames, encoder.input_dim, hidden, 1),
        Product("encoder", rows.frames, hidden, encoder.feedforward, 2 * layers),
        Product("encoder", rows.frames, encoder.feedforward, hidden, 2 * layers),
        Product("encoder", rows.frames, hidden, 3 * inner, layers),
        Product("encoder", rows.frames, inner, hidden, layers),
        Product("encoder", rows.frames, hidden, 2 * encoder.conv_inner, layers),
        Product("encoder", rows.frames, encoder.conv_inner, hidden, layers),
        Product("encoder", rows.frames, hidden, encoder.characters, 1),
        Product("encoder", rows.frames, encoder.characters, hidden, 1),
        Product("draft_head", rows.labels, hidden, editor.vocabulary, 1),
        Product("projector", rows.frames, hidden * len(encoder.taps), wide, 1),
        Product("projector", rows.keys, wide, 2 * wide, depth),
        Product("projector", rows.queries, wide, wide, 2 * depth),
        Product("projector", rows.queries, wide, projector.intermediate, depth),
        Product("projector", rows.queries, projector.intermediate, wide, depth),
        Product("projector", rows.queries, wide, width, 1),
        Product("editor", rows.positions, width, qkv, editor.layers),
        Product("editor", rows.positions, attended, width, editor.layers),
        Product("editor", rows.positions, width, 2 * editor.intermediate, editor.layers),
        Product("editor", rows.positions, editor.intermediate, width, editor.layers),
        Product("head", rows.slots, width, editor.vocabulary, 1),
    ]
