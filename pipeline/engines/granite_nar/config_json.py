"""The content of `config.json` with the field names of each published layout: the way back from `config.read_config`.

Pure. Written for checkpoints of our own; fields that only training reads are left out.
"""

from __future__ import annotations

from typing import Any, Literal

from pipeline.engines.granite_nar.config import ModelConfig

# A: the first published revision, with a label of its own for the blank; B: the pinned one; D: the port to transformers.
PublishedLayout = Literal["A", "B", "D"]

_ARCHITECTURES = {"A": "NLENARDecoder", "B": "GraniteSpeechNarForASR", "D": "GraniteSpeechNarForCTC"}


def config_fields(config: ModelConfig, layout: PublishedLayout) -> dict[str, Any]:
    """The content of `config.json` with the field names of the layout. Raises ValueError for sizes that it cannot express."""
    native = layout == "D"
    fields: dict[str, Any] = {
        "architectures": [_ARCHITECTURES[layout]],
        "model_type": "nle" if layout == "A" else "granite_speech_nar",
        "dtype": "bfloat16",
        "encoder_config": _encoder_fields(config, layout),
        "projector_config": _projector_fields(config, layout),
        "llm_config" if layout == "A" else "text_config": _text_fields(config, layout),
        "tie_word_embeddings": True,
    }
    if not native:
        taps = list(config.encoder.taps)
        fields |= {"encoder_layer_indices": [*taps[:-1], -1], "scale_projected_embeddings": config.scale_projected}
    elif not config.scale_projected:
        fields["scale_projected_embeddings"] = False
    if layout != "A":
        fields["blank_token_id"] = config.blank_id
    if layout == "B" or config.min_slots != ModelConfig().min_slots:
        fields["min_edit_sequence_length"] = config.min_slots
    return fields


def _encoder_fields(config: ModelConfig, layout: PublishedLayout) -> dict[str, Any]:
    encoder, vocabulary = config.encoder, config.editor.vocabulary
    fields = {
        "input_dim": encoder.input_dim,
        "num_layers": encoder.layers,
        "hidden_dim": encoder.hidden,
        "num_heads": encoder.heads,
        "dim_head": encoder.head_dim,
        "feedforward_mult": _multiple(encoder.feedforward, encoder.hidden),
        "conv_kernel_size": encoder.conv_kernel,
        "conv_expansion_factor": _multiple(encoder.conv_inner, encoder.hidden),
        "context_size": encoder.context,
        "max_pos_emb": encoder.max_distance,
        "output_dim": encoder.characters,
        "self_conditioning_layer": encoder.self_conditioning_layer,
        "dropout": 0.1,
    }
    if layout == "D":
        taps = list(encoder.taps[:-1])
        return fields | {
            "model_type": "granite_speech_nar_encoder",
            "vocabulary_size": vocabulary,
            "pooling_window": encoder.pooling_window,
            "cat_hidden_layers": taps,
        }
    fields["bpe_pooling_window"] = encoder.pooling_window
    if layout == "A":
        return fields | {"bpe_output_dim": vocabulary + 1, "attn_type": "block", "loss_lambda": 0.2}
    return fields | {"bpe_output_dim": vocabulary, "blank_token_id": config.blank_id}


def _projector_fields(config: ModelConfig, layout: PublishedLayout) -> dict[str, Any]:
    projector = config.projector
    fields: dict[str, Any] = {"hidden_size": projector.hidden, "downsample_rate": projector.downsample}
    if layout == "D":
        return fields | {
            "model_type": "granite_speech_nar_projector",
            "intermediate_size": projector.intermediate,
            "num_hidden_layers": projector.layers,
            "num_attention_heads": projector.heads,
            "num_key_value_heads": projector.heads,
            "hidden_act": "silu",
            "window_size": projector.window,
            "attention_bias": True,
            "layer_norm_eps": projector.eps,
        }
    return fields | {
        "encoder_dim": config.encoder.hidden,
        "num_encoder_layers": len(config.encoder.taps),
        "llm_dim": config.editor.hidden,
        "num_heads": projector.heads,
        "num_layers": projector.layers,
        "block_size": projector.window,
        "mlp_ratio": _multiple(projector.intermediate, projector.hidden),
        "attn_bias": True,
        "mlp_bias": True,
        "layernorm_eps": projector.eps,
        "dropout_prob": 0.1,
    }


def _text_fields(config: ModelConfig, layout: PublishedLayout) -> dict[str, Any]:
    editor = config.editor
    fields = {
        "model_type": "granite_speech_nar_text" if layout == "D" else "granite",
        "vocab_size": editor.vocabulary,
        "hidden_size": editor.hidden,
        "intermediate_size": editor.intermediate,
        "num_hidden_layers": editor.layers,
        "num_attention_heads": editor.heads,
        "num_key_value_heads": editor.kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": editor.eps,
        "max_position_embeddings": editor.max_positions,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": editor.embedding_multiplier,
        "residual_multiplier": editor.residual_multiplier,
        "attention_multiplier": editor.attention_multiplier,
        "logits_scaling": editor.logits_scale,
        "bos_token_id": config.blank_id,
        "eos_token_id": config.blank_id,
        "pad_token_id": pad_id(config.blank_id),
        "tie_word_embeddings": True,
    }
    if editor.head_dim * editor.heads != editor.hidden:
        fields["head_dim"] = editor.head_dim
    if layout == "A":
        return fields | {"rope_theta": editor.rope_theta}
    return fields | {"rope_parameters": {"rope_theta": editor.rope_theta, "rope_type": "default"}}


def pad_id(blank_id: int) -> int:
    """Padding stands right before the blank, as published."""
    return blank_id - 1 if blank_id else 1


def _multiple(size: int, unit: int) -> int:
    if size % unit:
        raise ValueError(f"config.json states this size as a multiple of {unit}, which {size} is not")
    return size // unit
