"""Names, shapes and types of a checkpoint: the published lists, every layout, and the sentence for each kind of damage."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.engines.granite_nar.checkpoint import (
    Match,
    expected_tensors,
    is_counter,
    is_identity,
    match,
    parameter_counts,
    read_header,
    stored_names,
)
from pipeline.engines.granite_nar.config import ModelConfig, read_config
from pipeline.engines.granite_nar.header import StoredTensor
from pipeline.engines.granite_nar.random_checkpoint import TINY
from pipeline.errors import ConfigError

Header = dict[str, StoredTensor]
EMBEDDING = "language_model.model.embed_tokens.weight"


def header_of(config: ModelConfig, layout: str = "B", dtype: str = "BF16") -> Header:
    """What a complete file of a layout has in its header. A: the first revision; D: the port; d: its draft."""
    header: Header = {}
    for name, shape in expected_tensors(config).items():
        names = stored_names(name, "native" if layout in "dD" else "remote")
        if not names:
            continue
        if layout == "A" and name.startswith("encoder.out_bpe"):
            shape = (shape[0] + 1, *shape[1:])
        stored = names[-1 if layout in "Ad" else 0]
        header[stored] = StoredTensor(stored, "I64" if is_counter(name) else dtype, shape)
    return header


def published_tensors(shared: Path) -> list[dict[str, str]]:
    with (shared / "reference" / "granite_nar_tensors.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_the_published_model_name_by_name(shared: Path) -> None:
    rows = published_tensors(shared)
    listed = {row["remote_code_name"]: tuple(json.loads(row["shape"])) for row in rows}
    expected = expected_tensors(ModelConfig())
    assert len(rows) == len(listed) == 946
    assert list(expected) == list(listed)
    assert expected == listed
    for row in rows:
        name, native = row["remote_code_name"], row["native_name_or_dash_if_dropped"]
        assert row["dtype"] == ("I64" if is_counter(name) else "BF16")
        assert stored_names(name, "remote")[0] == name
        assert (*stored_names(name, "native"), "-")[0] == native
        assert is_identity(name) == (native == "-")


def test_shapes_where_the_published_sizes_coincide() -> None:
    expected = expected_tensors(TINY)
    shapes = {
        "encoder.input_linear.weight": (48, 160),
        "encoder.out.weight": (40, 48),
        "encoder.out_mid.weight": (48, 40),
        "encoder.layers.4.attn.to_q.weight": (60, 48),
        "encoder.layers.4.attn.to_kv.weight": (120, 48),
        "encoder.layers.4.attn.to_out.weight": (48, 60),
        "encoder.layers.4.attn.to_out.bias": (48,),
        "encoder.layers.4.attn.rel_pos_emb.weight": (91, 20),
        "encoder.layers.4.conv.up_conv.weight": (192, 48, 1),
        "encoder.layers.4.conv.depth_conv.conv.weight": (96, 1, 7),
        "encoder.layers.4.conv.down_conv.weight": (48, 96, 1),
        "projector.layer_norms.3.bias": (48,),
        "projector.layer_projector.weight": (64, 192),
        "projector.query": (1, 3, 64),
        "projector.out_norm.weight": (64,),
        "projector.out_linear.weight": (80, 64),
        "projector.out_linear.bias": (80,),
        "projector.qformer.layers.1.mlp.fc2.weight": (64, 128),
        "language_model.model.layers.2.self_attn.q_proj.weight": (96, 80),
        "language_model.model.layers.2.self_attn.v_proj.weight": (32, 80),
        "language_model.model.layers.2.self_attn.o_proj.weight": (80, 96),
        "language_model.model.layers.2.mlp.down_proj.weight": (80, 112),
    }
    assert {name: expected[name] for name in shapes} == shapes


@pytest.mark.parametrize(("layout", "tensors", "identities"), [("remote", 946, 18), ("native", 928, 0)])
def test_the_published_list_matches(shared: Path, layout: str, tensors: int, identities: int) -> None:
    column = "remote_code_name" if layout == "remote" else "native_name_or_dash_if_dropped"
    rows = [row for row in published_tensors(shared) if row[column] != "-"]
    header = {row[column]: StoredTensor(row[column], row["dtype"], tuple(json.loads(row["shape"]))) for row in rows}
    found = match(header, ModelConfig())
    assert len(header) == tensors
    assert found.layout == layout
    assert sorted(found.names.values()) == sorted(header)
    assert {found.names[row["remote_code_name"]]: row[column] for row in rows} == {name: name for name in header}
    assert (found.draft_blank, found.label_shift, found.tied_head) == (100_257, 0, None)
    assert len(found.identity) == identities


def test_the_published_parameters() -> None:
    counts = parameter_counts(ModelConfig())
    millions = {part: round(count / 1e6, 1) for part, count in counts.items()}
    assert millions == {"encoder": 440.2, "draft_head": 102.9, "projector": 79.8, "editor": 1631.8}
    assert round(sum(counts.values()) / 1e6, 1) == 2254.6


@pytest.mark.parametrize(
    ("folder", "expected"),
    [("remote", ("remote", 490, 0, 18)), ("remote_layout_a", ("remote", 0, 1, 18)), ("native", ("native", 490, 0, 0))],
)
def test_golden_checkpoints_match(shared: Path, folder: str, expected: tuple[Any, ...]) -> None:
    where = shared / "golden" / "nar_tiny_a" / folder
    config = read_config(json.loads((where / "config.json").read_text()))
    header = read_header(where / "model.safetensors")
    found = match(header, config)
    assert (found.layout, found.draft_blank, found.label_shift, len(found.identity)) == expected
    assert set(found.names.values()) == header.keys()


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
@pytest.mark.parametrize("layout", ["A", "B", "D", "d"])
def test_every_layout_matches(layout: str, dtype: str) -> None:
    header = header_of(TINY, layout, dtype)
    found = match(header, TINY)
    native, first = layout in "dD", layout == "A"
    assert found.layout == ("native" if native else "remote")
    assert set(found.names.values()) == header.keys()
    assert len(set(found.names.values())) == len(found.names)
    assert (found.draft_blank, found.label_shift) == ((0, 1) if first else (TINY.blank_id, 0))
    identities = tuple(name for name in expected_tensors(TINY) if is_identity(name))
    assert len(identities) == 2 * (len(TINY.encoder.taps) + 1 + 2 * TINY.projector.layers)
    assert found.identity == (() if native else identities)
    assert found.names.keys() == expected_tensors(TINY).keys() - (set(identities) if native else set())


def test_names_of_the_first_revision_and_of_the_draft_of_the_port() -> None:
    assert stored_names(EMBEDDING, "remote") == (EMBEDDING, "llm.model.embed_tokens.weight")
    drafts = {
        "layer_projector.bias": "layer_projector.bias",
        "out_linear.weight": "linear.weight",
        "query": "query",
        "window_positions": "qformer.window_positions",
        "qformer.layers.1.cross_attention.q_proj.bias": "qformer.layers.1.cross_attention.query.bias",
        "qformer.layers.0.cross_attention.k_proj.weight": "qformer.layers.0.cross_attention.key.weight",
        "qformer.layers.0.cross_attention.v_proj.weight": "qformer.layers.0.cross_attention.value.weight",
        "qformer.layers.1.cross_attention.o_proj.weight": "qformer.layers.1.o_proj.weight",
        "qformer.layers.0.mlp.fc1.weight": "qformer.layers.0.mlp.fc1.weight",
    }
    for name, draft in drafts.items():
        assert stored_names(f"projector.{name}", "native")[-1] == f"model.projector.{draft}"


@pytest.mark.parametrize("layout", ["A", "B", "D", "d"])
def test_no_two_tensors_share_a_name(layout: str) -> None:
    names = [
        stored
        for name in expected_tensors(TINY)
        for stored in stored_names(name, "native" if layout in "dD" else "remote")
    ]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("head", ["lm_head.weight", "language_model.lm_head.weight", "llm.lm_head.weight"])
def test_a_stored_head_is_an_alias_of_the_embedding(head: str) -> None:
    shape = (TINY.editor.vocabulary, TINY.editor.hidden)
    header = header_of(TINY) | {head: StoredTensor(head, "BF16", shape)}
    assert match(header, TINY) == replace(match(header_of(TINY), TINY), tied_head=head)
    refuse(header | {head: StoredTensor(head, "BF16", (1, 2))}, head, r"\[1, 2\]", "480, 80")


def refuse(header: Header, *patterns: str, config: ModelConfig = TINY) -> None:
    """The header must not match, and one sentence must say every pattern and the next step."""
    with pytest.raises(ConfigError) as refusal:
        match(header, config)
    message = str(refusal.value)
    for pattern in patterns:
        assert re.search(pattern, message), message
    assert re.search(
        r"; take model\.safetensors and config\.json from one revision of a Granite Speech NAR model\.$", message
    )
    assert "\n" not in message


@pytest.mark.parametrize("layout", ["A", "B", "D", "d"])
def test_every_tensor_that_is_missing_is_named(layout: str) -> None:
    whole = header_of(TINY, layout)
    found = match(whole, TINY)
    expected = {
        stored: stored_names(name, found.layout)[-1 if layout == "A" else 0] for name, stored in found.names.items()
    }
    heads = {stored for name, stored in found.names.items() if name == "encoder.out_bpe.weight"}
    for dropped in whole.keys() - heads:
        shape = re.escape(str(list(whole[dropped].shape)))
        header = {name: tensor for name, tensor in whole.items() if name != dropped}
        refuse(
            header,
            f"lacks tensor {re.escape(expected[dropped])} \\(shape {shape}, {'I64' if 'num_b' in dropped else 'BF16'}",
        )
    header = {name: tensor for name, tensor in whole.items() if name not in heads}
    refuse(header, "neither of encoder.out_bpe.weight and model.out_bpe.weight")


def test_the_first_of_several_is_named() -> None:
    gone = ["encoder.layers.1.post_norm.bias", "encoder.layers.3.attn.to_q.weight", "projector.query"]
    header = {name: tensor for name, tensor in header_of(TINY).items() if name not in gone}
    header["encoder.layers.2.ff1.up_proj.bias"] = StoredTensor("encoder.layers.2.ff1.up_proj.bias", "BF16", (7,))
    header = {"unknown": StoredTensor("unknown", "BF16", ())} | header
    refuse(dict(reversed(header.items())), "lacks tensor encoder.layers.1.post_norm.bias")


def test_a_tensor_under_another_name_is_pointed_at() -> None:
    header = header_of(TINY)
    header["encoder.layers.0.attn.to_query.weight"] = header.pop("encoder.layers.0.attn.to_q.weight")
    refuse(
        header,
        r"lacks tensor encoder\.layers\.0\.attn\.to_q\.weight .* unknown encoder\.layers\.0\.attn\.to_query\.weight",
    )


@pytest.mark.parametrize(("layout", "other"), [("B", "D"), ("D", "B"), ("A", "D"), ("d", "B")])
def test_a_half_renamed_file_is_told(layout: str, other: str) -> None:
    here, there = header_of(TINY, layout), header_of(TINY, other)
    mixed = {name: tensor for name, tensor in here.items() if "encoder" in name or "out_bpe" in name}
    mixed |= {name: tensor for name, tensor in there.items() if "encoder" not in name and "out_bpe" not in name}
    family = "native" if other == "D" else "remote"
    refuse(
        mixed,
        rf"lacks tensor (model\.)?projector\..* and holds (model\.)?projector\.\S+, a name of the {family} layout",
    )
    refuse(here | there, "both of encoder.out_bpe.weight and model.out_bpe.weight")


def test_what_is_stored_twice_is_told() -> None:
    twice = StoredTensor("llm.model.norm.weight", "BF16", (TINY.editor.hidden,))
    refuse(
        header_of(TINY) | {twice.name: twice},
        r"twice, as language_model\.model\.norm\.weight and as llm\.model\.norm\.weight",
    )
    heads = {name: StoredTensor(name, "BF16", (480, 80)) for name in ("lm_head.weight", "llm.lm_head.weight")}
    refuse(header_of(TINY) | heads, r"a tensor llm\.lm_head\.weight that this model does not have")


@pytest.mark.parametrize("layout", ["A", "B", "D"])
def test_what_has_no_place_is_named(layout: str) -> None:
    for extra in ("encoder.layers.5.ff1.up_proj.weight", "model.projector.out_norm.weight", "lora_A.weight"):
        header = header_of(TINY, layout) | {extra: StoredTensor(extra, "BF16", (3,))}
        refuse(header, rf"a tensor {re.escape(extra)} that this model does not have")


@pytest.mark.parametrize("layout", ["A", "B", "D", "d"])
def test_every_wrong_shape_and_type_is_named(layout: str) -> None:
    whole = header_of(TINY, layout)
    for name, tensor in whole.items():
        for shape in ((*tensor.shape, 1), tensor.shape[::-1], tuple(size + 2 for size in tensor.shape)):
            if shape != tensor.shape:
                changed = StoredTensor(name, tensor.dtype, shape)
                asked = re.escape(str(list(tensor.shape)))
                if name.endswith("out_bpe.weight"):
                    asked = r"\[480, 48\] or \[481, 48\]"
                refuse(
                    whole | {name: changed}, f"Tensor {re.escape(name)} .* {re.escape(str(list(shape)))}, .* {asked};"
                )
        for dtype in ("F64", "F8_E4M3", "BF16" if tensor.dtype == "I64" else "I64"):
            wanted = "I64" if tensor.dtype == "I64" else "BF16 or F16 or F32"
            refuse(
                whole | {name: StoredTensor(name, dtype, tensor.shape)},
                f"Tensor {re.escape(name)} .* type {dtype}, .*{wanted};",
            )


def test_another_size_of_model_is_told_by_its_first_tensor() -> None:
    refuse(header_of(TINY), r"Tensor encoder\.out_bpe\.weight .* \[480, 48\]", config=ModelConfig())
    deeper = replace(TINY, encoder=replace(TINY.encoder, layers=6))
    refuse(header_of(TINY), r"lacks tensor encoder\.layers\.5\.ff1\.pre_norm\.weight", config=deeper)


def test_an_empty_file_of_tensors_is_no_model() -> None:
    refuse({}, "neither of")


def test_a_match_is_a_record() -> None:
    found = match(header_of(TINY), TINY)
    assert isinstance(found, Match)
    with pytest.raises(AttributeError):
        found.layout = "native"  # type: ignore[misc]
