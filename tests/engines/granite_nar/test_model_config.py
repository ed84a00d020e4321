"""config.json of every published layout, and the sentence for each thing that cannot be."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engines.granite_nar.config import EditorConfig, EncoderConfig, ModelConfig, ProjectorConfig, read_config
from pipeline.engines.granite_nar.config_json import PublishedLayout, config_fields
from pipeline.engines.granite_nar.random_checkpoint import TINY
from pipeline.errors import ConfigError

ABSENT = object()
LAYOUTS: tuple[PublishedLayout, ...] = ("A", "B", "D")

# The pinned revision, as its model card's repository states it.
PUBLISHED: dict[str, Any] = {
    "model_type": "granite_speech_nar",
    "encoder_config": {
        "input_dim": 160,
        "num_layers": 16,
        "hidden_dim": 1024,
        "num_heads": 8,
        "dim_head": 128,
        "feedforward_mult": 4,
        "conv_kernel_size": 15,
        "conv_expansion_factor": 2,
        "context_size": 200,
        "max_pos_emb": 512,
        "output_dim": 348,
        "bpe_output_dim": 100352,
        "bpe_pooling_window": 4,
        "self_conditioning_layer": 8,
        "blank_token_id": 100257,
        "dropout": 0.1,
        "pred_dropout": 0.25,
    },
    "projector_config": {
        "encoder_dim": 1024,
        "num_encoder_layers": 4,
        "hidden_size": 2048,
        "llm_dim": 2048,
        "num_heads": 32,
        "num_layers": 2,
        "block_size": 15,
        "downsample_rate": 5,
        "mlp_ratio": 2,
        "attn_bias": True,
        "mlp_bias": True,
        "layernorm_eps": 1e-6,
    },
    "text_config": {
        "model_type": "granite",
        "vocab_size": 100352,
        "hidden_size": 2048,
        "intermediate_size": 4096,
        "num_hidden_layers": 40,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_theta": 10000, "rope_type": "default"},
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "attention_bias": False,
        "mlp_bias": False,
        "embedding_multiplier": 12,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.0078125,
        "logits_scaling": 8,
        "pad_token_id": 100256,
        "bos_token_id": 100257,
        "eos_token_id": 100257,
        "tie_word_embeddings": True,
    },
    "encoder_layer_indices": [4, 8, 12, -1],
    "scale_projected_embeddings": True,
    "blank_token_id": 100257,
    "min_edit_sequence_length": 8,
    "tie_word_embeddings": True,
}


def changed(changes: dict[str, Any], base: dict[str, Any] = PUBLISHED) -> dict[str, Any]:
    """A copy with dotted fields set, or removed where the value is ABSENT."""
    data = copy.deepcopy(base)
    for path, value in changes.items():
        *parents, name = path.split(".")
        section = data
        for parent in parents:
            section = section[parent]
        section.pop(name, None)
        if value is not ABSENT:
            section[name] = value
    return data


FIRST_REVISION = changed(
    {
        "model_type": "nle",
        "llm_config": changed({"rope_parameters": ABSENT, "rope_theta": 10000}, PUBLISHED["text_config"]),
        "text_config": ABSENT,
        "encoder_config.bpe_output_dim": 100353,
        "encoder_config.blank_token_id": ABSENT,
        "encoder_config.attn_type": "block",
        "blank_token_id": ABSENT,
        "min_edit_sequence_length": ABSENT,
    }
)
DRAFT_OF_THE_PORT = changed(  # as a draft of the port to transformers saved it
    {
        "encoder_layer_indices": ABSENT,
        "encoder_config.cat_hidden_layers": [4, 8, 12],
        "min_edit_sequence_length": ABSENT,
        "scale_projected_embeddings": ABSENT,
        "projector_config.block_size": ABSENT,
        "projector_config.downsample_rate": ABSENT,
        "projector_config.mlp_ratio": ABSENT,
        "projector_config.intermediate_size": 4096,
        "projector_config.num_heads": ABSENT,
        "projector_config.num_attention_heads": 32,
        "window_size": 15,
        "downsample_rate": 5,
    }
)


@pytest.mark.parametrize("data", [PUBLISHED, FIRST_REVISION, DRAFT_OF_THE_PORT], ids=["pinned", "first", "draft"])
def test_published_configs_are_the_defaults(data: dict[str, Any]) -> None:
    assert read_config(data) == ModelConfig()
    assert (
        read_config(json.loads(json.dumps(data)), head_rows=data["encoder_config"]["bpe_output_dim"]) == ModelConfig()
    )


@pytest.mark.parametrize("folder", ["remote", "remote_layout_a", "native"])
def test_golden_configs_are_one_model(shared: Path, folder: str) -> None:
    data = json.loads((shared / "golden" / "nar_tiny_a" / folder / "config.json").read_text())
    assert read_config(data, head_rows=501 if folder.endswith("_a") else 500) == ModelConfig(
        encoder=EncoderConfig(160, 4, 64, 4, 16, 256, 15, 128, 20, 51, 44, 4, 2, (1, 2, 3, 4)),
        projector=ProjectorConfig(96, 192, 6, 2, 15, 5, 1e-6),
        editor=EditorConfig(500, 96, 160, 3, 6, 2, 16, 1e-5, 10_000.0, 4096, 12.0, 0.22, 0.0625, 8.0),
        blank_id=490,
    )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("config", [ModelConfig(), TINY, replace(TINY, min_slots=3, scale_projected=False)])
def test_what_is_written_is_read(layout: PublishedLayout, config: ModelConfig) -> None:
    assert read_config(config_fields(config, layout)) == config


def test_what_a_layout_cannot_express_is_not_written() -> None:
    odd = replace(TINY, projector=replace(TINY.projector, intermediate=130))
    assert read_config(config_fields(odd, "D")) == odd
    with pytest.raises(ValueError, match="a multiple of 64, which 130 is not"):
        config_fields(odd, "B")


def test_the_layouts_keep_their_own_names() -> None:
    pinned, first, native = (config_fields(ModelConfig(), layout) for layout in ("B", "A", "D"))
    for section, fields in PUBLISHED.items():
        stated = fields if isinstance(fields, dict) else {section: fields}
        written = pinned[section] if isinstance(fields, dict) else pinned
        training = {"dropout", "pred_dropout", "rope_scaling"}
        assert {name: written[name] for name in stated.keys() - training} == {
            name: stated[name] for name in stated.keys() - training
        }
    assert first["model_type"] == "nle"
    assert first["llm_config"]["rope_theta"] == 10_000
    assert first["encoder_config"]["bpe_output_dim"] == 100_353
    assert not {"text_config", "blank_token_id", "min_edit_sequence_length"} & first.keys()
    assert native["encoder_config"]["cat_hidden_layers"] == [4, 8, 12]
    assert native["projector_config"]["window_size"] == 15
    assert not {"encoder_layer_indices", "min_edit_sequence_length", "scale_projected_embeddings"} & native.keys()


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"encoder_layer_indices": [1, -2, 16]}, "encoder.taps", (1, 15, 16)),
        ({"encoder_layer_indices": [-1]}, "encoder.taps", (16,)),
        ({"encoder_config.self_conditioning_layer": None}, "encoder.self_conditioning_layer", 8),
        ({"encoder_config.dim_head": ABSENT}, "encoder.head_dim", 128),
        ({"encoder_config.dim_head": 96}, "encoder.head_dim", 96),
        ({"encoder_config.bpe_output_dim": ABSENT}, "editor.vocabulary", 100_352),
        ({"projector_config.mlp_ratio": 1.5}, "projector.intermediate", 3072),
        ({"text_config.head_dim": 64}, "editor.head_dim", 64),
        ({"text_config.num_key_value_heads": ABSENT}, "editor.kv_heads", 16),
        ({"text_config.rope_theta": 10_000.0}, "editor.rope_theta", 10_000.0),
        ({"text_config.rope_parameters": {"rope_theta": 5e5}}, "editor.rope_theta", 500_000.0),
        ({"text_config.residual_multiplier": 1}, "editor.residual_multiplier", 1.0),
        (
            {"blank_token_id": ABSENT, "encoder_config.blank_token_id": 7},
            "blank_id",
            100_257,
        ),  # that of the draft's labels
        (
            {"tie_word_embeddings": False},
            "blank_id",
            100_257,
        ),  # whether a head is stored decides, not what is said of it
        ({"min_edit_sequence_length": 1}, "min_slots", 1),
        ({"scale_projected_embeddings": False}, "scale_projected", False),
    ],
)
def test_fields_that_may_differ(changes: dict[str, Any], field: str, value: Any) -> None:
    single = {"projector_config.num_encoder_layers": ABSENT}
    found: Any = read_config(changed(changes | single))
    for name in field.split("."):
        found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        *[
            ({path: ABSENT}, path)
            for path in (
                "encoder_config",
                "projector_config",
                "text_config",
                "encoder_layer_indices",
                "encoder_config.num_layers",
                "encoder_config.hidden_dim",
                "encoder_config.context_size",
                "encoder_config.bpe_pooling_window",
                "projector_config.hidden_size",
                "projector_config.block_size",
                "projector_config.layernorm_eps",
                "text_config.vocab_size",
                "text_config.attention_multiplier",
            )
        ],
        ({"text_config.rope_parameters": ABSENT}, "text_config.rope_theta"),
        *[
            ({path: value}, path)
            for path, value in (
                ("encoder_config", [1]),
                ("encoder_config.num_layers", "16"),
                ("encoder_config.num_layers", 16.0),
                ("encoder_config.num_layers", True),
                ("encoder_config.num_layers", 0),
                ("encoder_config.num_layers", 10**9),
                ("encoder_config.hidden_dim", -1024),
                ("encoder_config.input_dim", 80),
                ("encoder_config.attn_type", "full"),
                ("encoder_config.conv_kernel_size", 14),
                ("encoder_config.context_size", 513),
                ("encoder_config.self_conditioning_layer", 17),
                ("encoder_config.bpe_output_dim", 49_153),
                ("encoder_layer_indices", []),
                ("encoder_layer_indices", 4),
                ("encoder_layer_indices", [4, 8, "12", -1]),
                ("encoder_layer_indices", [0, 4, 8, -1]),
                ("encoder_layer_indices", [8, 4, 12, -1]),
                ("encoder_layer_indices", [4, 8, 12, 15]),
                ("encoder_layer_indices", [4, 8, 16, -1]),
                ("encoder_layer_indices", [-20, 4, 8, -1]),
                ("projector_config.num_encoder_layers", 3),
                ("projector_config.encoder_dim", 512),
                ("projector_config.llm_dim", 1024),
                ("projector_config.num_heads", 31),
                ("projector_config.downsample_rate", 4),
                ("projector_config.mlp_ratio", 0.3001),
                ("projector_config.attn_bias", False),
                ("projector_config.mlp_bias", 1),
                ("projector_config.hidden_act", "gelu"),
                ("projector_config.num_key_value_heads", 8),
                ("text_config.hidden_act", "gelu"),
                ("text_config.attention_bias", True),
                ("text_config.mlp_bias", True),
                ("text_config.tie_word_embeddings", False),
                ("text_config.num_key_value_heads", 3),
                ("text_config.head_dim", 127),
                ("text_config.rms_norm_eps", "1e-5"),
                ("text_config.rms_norm_eps", float("nan")),
                ("text_config.logits_scaling", 0),
                ("text_config.logits_scaling", 10**400),
                ("text_config.embedding_multiplier", float("inf")),
                ("text_config.rope_parameters.rope_type", "yarn"),
                ("text_config.rope_parameters.partial_rotary_factor", 0.5),
                ("text_config.rope_scaling", {"type": "linear", "factor": 2.0}),
                ("text_config.rope_theta", 500_000),
                ("text_config.eos_token_id", 7),
                ("blank_token_id", 100_352),
                ("blank_token_id", -1),
                ("min_edit_sequence_length", 0),
                ("scale_projected_embeddings", 1),
            )
        ],
    ],
)
def test_refusals_name_the_field(changes: dict[str, Any], field: str) -> None:
    pattern = rf"config\.json: {re.escape(field)}(\.\w+)? is .+, but must be .+; take config\.json and [^.]+\.[^.]+\."
    with pytest.raises(ConfigError, match=rf"^{pattern}$"):
        read_config(changed(changes))


def test_heads_that_do_not_divide_need_a_stated_size() -> None:
    for changes, field in (
        ({"encoder_config.num_heads": 7, "encoder_config.dim_head": ABSENT}, "encoder_config.dim_head is missing"),
        (
            {"text_config.num_attention_heads": 20, "text_config.num_key_value_heads": 4},
            "text_config.head_dim is missing",
        ),
    ):
        with pytest.raises(ConfigError, match=field):
            read_config(changed(changes))


@pytest.mark.parametrize(
    ("rows", "field"),
    [(100_353, "encoder_config.bpe_output_dim is 100352"), (49_153, "text_config.vocab_size is 100352"), (1, "1 or 0")],
)
def test_the_stored_head_must_fit(rows: int, field: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(field)):
        read_config(PUBLISHED, head_rows=rows)


@pytest.mark.parametrize("model_type", ["granite_speech", "whisper", None, ["nle"], {"a": 1}])
def test_another_model_is_told_apart(model_type: Any) -> None:
    with pytest.raises(ConfigError) as refusal:
        read_config(changed({"model_type": model_type}))
    assert f"model_type {model_type!r}" in str(refusal.value)
    assert "granite_speech_nar or nle" in str(refusal.value)


@pytest.mark.parametrize("data", [None, [], "text", 3])
def test_what_is_no_object_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"^config\.json: the whole file is"):
        read_config(data)


def leaves(data: dict[str, Any], above: str = "") -> list[str]:
    """Dotted paths of everything in a config."""
    paths = []
    for name, value in data.items():
        paths.append(above + name)
        if isinstance(value, dict):
            paths += leaves(value, f"{above}{name}.")
    return paths


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(base=st.sampled_from([PUBLISHED, FIRST_REVISION, DRAFT_OF_THE_PORT]), data=st.data())
def test_no_content_breaks_the_reader(base: dict[str, Any], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(leaves(base)))
    try:
        said = repr(read_config(changed({path: data.draw(JSON)}, base)))
    except ConfigError as refusal:
        said = str(refusal)
    assert re.match(r"ModelConfig\(|config\.json[: ].+; .+\.$", said)
