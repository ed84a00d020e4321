"""Random checkpoints: complete in every layout, the same model in each, and with weights that behave."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import Tokenizer

from pipeline.engines.granite_nar.checkpoint import expected_tensors, is_counter, is_identity, match, read_header
from pipeline.engines.granite_nar.config import ModelConfig, read_config
from pipeline.engines.granite_nar.config_json import PublishedLayout
from pipeline.engines.granite_nar.random_checkpoint import (
    BLANK_TOKEN,
    PAD_TOKEN,
    TINY,
    random_tensors,
    train_tokenizer,
    write_checkpoint,
)

LAYOUTS: tuple[PublishedLayout, ...] = ("A", "B", "D")
HEAD = "encoder.out_bpe"
BLANK_AT_AN_END = (replace(TINY, blank_id=0), replace(TINY, blank_id=TINY.editor.vocabulary - 1))


def canonical(folder: Path) -> tuple[ModelConfig, dict[str, torch.Tensor]]:
    """A written checkpoint by canonical names."""
    config = read_config(json.loads((folder / "config.json").read_text("utf-8")))
    found = match(read_header(folder / "model.safetensors"), config)
    stored = load_file(folder / "model.safetensors")
    assert stored.keys() == set(found.names.values())
    return config, {name: stored[held] for name, held in found.names.items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """TINY in every layout."""
    folders = {layout: tmp_path_factory.mktemp(layout) / "model" for layout in LAYOUTS}
    for layout in LAYOUTS:
        write_checkpoint(folders[layout], TINY, layout=layout, seed=5)
    return folders


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_checkpoint_is_complete(written: dict[str, Path], layout: PublishedLayout) -> None:
    folder = written[layout]
    assert {path.name for path in folder.iterdir()} == {"model.safetensors", "config.json", "tokenizer.json"}
    config, tensors = canonical(folder)
    assert config == TINY
    in_memory = random_tensors(TINY, seed=5, layout=layout)
    with safe_open(folder / "model.safetensors", "pt") as file:
        assert set(file.keys()) == in_memory.keys()
        assert all(torch.equal(file.get_tensor(name), in_memory[name]) for name in in_memory)
    assert {tensor.dtype for name, tensor in tensors.items() if not is_counter(name)} == {torch.bfloat16}
    header = read_header(folder / "model.safetensors")
    assert match(header, config).layout == ("native" if layout == "D" else "remote")


@pytest.mark.parametrize("config", [TINY, *BLANK_AT_AN_END], ids=["tiny", "blank first", "blank last"])
def test_every_layout_is_the_same_model(config: ModelConfig) -> None:
    first, pinned, native = (random_tensors(config, seed=1, layout=layout) for layout in LAYOUTS)
    assert not first.keys() & {"language_model.model.norm.weight"}
    for name, tensor in pinned.items():
        if not name.startswith(HEAD):
            assert torch.equal(first[name.replace("language_model.", "llm.")], tensor)
    assert torch.equal(native["model.out_bpe.weight"], pinned[f"{HEAD}.weight"])
    assert torch.equal(native["model.projector.qformer.queries"], pinned["projector.query"])
    assert len(first) == len(pinned) == len(native) + sum(is_identity(name) for name in pinned)
    for kind in ("weight", "bias"):
        rows, shifted = pinned[f"{HEAD}.{kind}"], first[f"{HEAD}.{kind}"]
        assert torch.equal(shifted[0], rows[config.blank_id])
        others = torch.arange(config.editor.vocabulary) != config.blank_id
        assert torch.equal(shifted[1:][others], rows[others])


def test_drafts_are_the_same_in_every_layout() -> None:
    hidden = torch.randn(4000, TINY.encoder.hidden, generator=torch.Generator().manual_seed(0)) * 0.7
    drafts = []
    for layout, blank, shift in (("A", 0, 1), ("B", TINY.blank_id, 0)):
        tensors = random_tensors(TINY, seed=2, layout=layout, dtype=torch.float32)  # type: ignore[arg-type]
        logits = hidden @ tensors[f"{HEAD}.weight"].t() + tensors[f"{HEAD}.bias"]
        labels = logits.argmax(-1)
        drafts.append((torch.where(labels == blank, -1, labels - shift), logits.logsumexp(-1)))
    assert torch.equal(drafts[0][0], drafts[1][0])
    assert TINY.blank_id not in drafts[0][0]
    torch.testing.assert_close(drafts[0][1], drafts[1][1])


@pytest.mark.parametrize("seed", range(5))
def test_drafts_mix_blanks_with_tokens(seed: int) -> None:
    hidden = torch.randn(2000, TINY.encoder.hidden, generator=torch.Generator().manual_seed(seed)) * 0.7
    tensors = random_tensors(TINY, seed=seed, dtype=torch.float32)
    labels = (hidden @ tensors[f"{HEAD}.weight"].t() + tensors[f"{HEAD}.bias"]).argmax(-1)
    assert 0.25 < (labels == TINY.blank_id).float().mean() < 0.75
    assert len(labels.unique()) > 100
    posteriors = torch.softmax(hidden / 0.7 @ tensors["encoder.out.weight"].t() + tensors["encoder.out.bias"], -1)[:, 0]
    assert 0.3 < posteriors.mean() < 0.7
    assert posteriors.std() > 0.2


def test_norms_are_what_each_has_to_be() -> None:
    for name, tensor in random_tensors(TINY, seed=3, dtype=torch.float32).items():
        if is_identity(name):
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith(".weight"))))
        elif name.endswith("running_var"):
            assert 0.4 < tensor.min() < 0.8 < 1.2 < tensor.max() < 1.6
        elif tensor.dim() == 1 and name.endswith(".weight"):
            assert 0.9 < tensor.mean() < 1.1
            assert tensor.std() > 0.05
        elif not is_counter(name):
            assert tensor.std() > 0.01, name
            assert tensor.isfinite().all()


def test_what_all_frames_share_is_not_passed_on() -> None:
    tensors = random_tensors(TINY, seed=0, dtype=torch.float32)
    names = ("encoder.input_linear", "encoder.layers.1.ff2.down_proj", "encoder.layers.0.conv.depth_conv.conv")
    for name in names:
        rows = tensors[f"{name}.weight"].flatten(1)
        assert rows.sum(1).abs().max() < 1e-5
        assert rows.std(1).min() > 0.01


def test_embeddings_have_unit_size_behind_their_multiplier() -> None:
    for config in (TINY, replace(TINY, editor=replace(TINY.editor, embedding_multiplier=3.0))):
        embedding = random_tensors(config, seed=0)["language_model.model.embed_tokens.weight"].float()
        size = embedding.square().mean().sqrt() * config.editor.embedding_multiplier
        assert 0.95 < size < 1.05


def test_seeds_and_types() -> None:
    one, again, other = (random_tensors(TINY, seed=seed) for seed in (1, 1, 2))
    for name in one:
        assert torch.equal(one[name], again[name])
        assert is_identity(name) or is_counter(name) or not torch.equal(one[name], other[name]), name
    kinds = {tensor.dtype for tensor in random_tensors(TINY, seed=1, dtype=torch.float16).values()}
    assert kinds == {torch.float16, torch.int64}
    wide = random_tensors(TINY, seed=1, dtype=torch.float32)
    assert all(torch.equal(wide[name].to(tensor.dtype), tensor) for name, tensor in one.items())
    assert {name: tuple(tensor.shape) for name, tensor in wide.items()} == expected_tensors(TINY)


def test_a_deeper_model_keeps_the_tensors_of_a_shallow_one() -> None:
    deeper = replace(TINY, projector=replace(TINY.projector, layers=3))
    shallow, deep = random_tensors(TINY, seed=1), random_tensors(deeper, seed=1)
    assert all(torch.equal(deep[name], tensor) for name, tensor in shallow.items())


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path, written: dict[str, Path]) -> None:
    write_checkpoint(tmp_path, TINY, layout="B", seed=5)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (written["B"] / name).read_bytes()
    write_checkpoint(tmp_path / "bare", TINY, layout="B", seed=5, tokenizer=False)
    assert not (tmp_path / "bare" / "tokenizer.json").exists()


def test_the_tokenizer_has_a_token_for_every_id(written: dict[str, Path]) -> None:
    tokenizer = Tokenizer.from_file(str(written["A"] / "tokenizer.json"))
    size = TINY.editor.vocabulary
    assert tokenizer.get_vocab_size() == size
    assert sorted(tokenizer.get_vocab().values()) == list(range(size))
    assert tokenizer.id_to_token(TINY.blank_id) == BLANK_TOKEN
    assert tokenizer.id_to_token(TINY.blank_id - 1) == PAD_TOKEN
    assert not [token for token in tokenizer.get_vocab() if "unused" in token]
    assert tokenizer.decode([TINY.blank_id, TINY.blank_id - 1], skip_special_tokens=True) == ""
    assert tokenizer.decode([TINY.blank_id], skip_special_tokens=False) == BLANK_TOKEN
    assert max(len(tokenizer.decode([number])) for number in range(size)) > 3


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TINY.editor.vocabulary, TINY.blank_id)


@given(text=st.text(max_size=30))
def test_the_tokenizer_gives_any_text_back(tokenizer: Tokenizer, text: str) -> None:
    encoded = tokenizer.encode(text)
    assert tokenizer.decode(encoded.ids) == text
    assert all(0 <= number < TINY.editor.vocabulary for number in encoded.ids)


@pytest.mark.parametrize(("vocabulary", "blank_id"), [(258, 0), (258, 257), (300, 1), (2000, 1999), (1500, 700)])
def test_any_vocabulary_is_filled(vocabulary: int, blank_id: int) -> None:
    tokenizer = train_tokenizer(vocabulary, blank_id)
    assert sorted(tokenizer.get_vocab().values()) == list(range(vocabulary))
    assert tokenizer.id_to_token(blank_id) == BLANK_TOKEN
    assert tokenizer.decode(tokenizer.encode("größere flüsse 漢").ids) == "größere flüsse 漢"
    assert tokenizer.decode([blank_id]) == ""


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="258 ids or more, got 257"):
        train_tokenizer(257, 0)
