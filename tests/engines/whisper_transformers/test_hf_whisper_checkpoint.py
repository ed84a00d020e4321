"""What whisper-transformers says of a folder, and what it refuses: real folders as transformers saves them, then spoiled."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from granite_checkpoints import edit_json
from whisper_checkpoints import ENGLISH, LANGUAGES, write_whisper

from pipeline.config import EngineConfig
from pipeline.engines.base import create_engine, describe_engine
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whisper")
    write_whisper(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def config(folder: Path, **fields: Any) -> EngineConfig:
    return EngineConfig.model_validate({"name": "whisper-transformers", "model": str(folder), **fields})


def test_a_multilingual_model_says_so(folder: Path) -> None:
    spec = describe_engine(config(folder))
    assert spec.languages is not None
    assert len(spec.languages) == LANGUAGES
    assert spec.tasks == {"transcribe", "translate"}
    assert spec.features == {"keywords", "confidence", "word_times", "language_detection"}
    assert (spec.max_chunk_s, spec.padding) == (30.0, "fixed")


def test_an_english_model_says_so_though_its_tokenizer_lists_languages(tmp_path: Path) -> None:
    write_whisper(tmp_path, vocabulary=ENGLISH)
    spec = describe_engine(config(tmp_path))
    assert (spec.languages, spec.tasks) == ({"en"}, {"transcribe"})
    assert "language_detection" not in spec.features
    with pytest.raises(ConfigError, match="cannot translate"):
        describe_engine(config(tmp_path, task="translate"))
    with pytest.raises(
        ConfigError, match=r"does not know 'fr'; engine.language can be en, or take a multilingual model"
    ):
        describe_engine(config(tmp_path, language="fr"))


def test_shards_are_found_through_their_index(tmp_path: Path) -> None:
    write_whisper(tmp_path, shard_bytes="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    engine = create_engine(config(tmp_path, threads=1, options={"max_new_tokens": 1}))
    engine.load()
    engine.close()
    shard = next(tmp_path.glob("model-*.safetensors"))
    shard.unlink()
    with pytest.raises(ConfigError, match=rf"lacks {shard.name}, which model.safetensors.index.json names"):
        describe_engine(config(tmp_path))


def test_without_alignment_heads_there_are_no_word_times(folder: Path) -> None:
    (folder / "generation_config.json").unlink()
    assert "word_times" not in describe_engine(config(folder)).features
    with pytest.raises(ConfigError, match="gives no word times"):
        describe_engine(config(folder, options={"word_times": True}))


def edits(name: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / name, **fields)


def grow(name: str, n_bytes: int) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes() + b" " * n_bytes) and None


def put(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def as_ctranslate2(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.bin")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "config.json").unlink(), "lacks config.json"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors"),
        (as_ctranslate2, r"CTranslate2's format; set engine.name=whisper"),
        (put("adapter_config.json", "{}"), "comes with an adapter"),
        (edits("config.json", model_type="granite_speech"), "is of the type 'granite_speech', not 'whisper'"),
        (edits("config.json", quantization_config={"bits": 4}), "are quantized"),
        (edits("config.json", activation_function="relu"), "another activation"),
        (edits("config.json", decoder_layers=10**9), "says decoder_layers 1000000000, and 1 to 256 can be"),
        (edits("config.json", d_model="many"), "says d_model 'many'"),
        (edits("config.json", encoder_layers=True), "says encoder_layers True"),
        (edits("config.json", max_source_positions=750), "says max_source_positions 750"),
        (edits("config.json", encoder_attention_heads=5), "unevenly"),
        (put("config.json", "[" * 100_000), "The config.json of .* cannot be read"),
        (put("config.json", "[]"), "holds no settings"),
        (grow("config.json", 2**20), "which no published one comes near"),
        (grow("generation_config.json", 2**20), "which no published one comes near"),
        (grow("tokenizer.json", 2**24), "which no published one comes near"),
        (edits("generation_config.json", alignment_heads=[[0, 99]]), "that the model does not have"),
        (edits("generation_config.json", alignment_heads=[["a", 0]]), "that the model does not have"),
        (edits("generation_config.json", alignment_heads=7), "that the model does not have"),
        (edits("tokenizer.json", added_tokens=[1, {"content": 2}]), "no tokens for languages"),
        (put("model.safetensors.index.json", '{"weight_map": {"a": "x.bin"}}'), None),  # not asked: there is one file
    ],
)
def test_what_cannot_be_run_is_refused_in_one_sentence(
    folder: Path, spoil: Callable[[Path], None], says: str | None
) -> None:
    spoil(folder)
    if says is None:
        describe_engine(config(folder))
        return
    with pytest.raises(ConfigError, match=says) as caught:
        describe_engine(config(folder))
    assert str(caught.value).count("\n") == 0


def test_weights_that_are_not_those_of_the_config_do_not_load(folder: Path) -> None:
    weights = folder / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="does not load"):
        create_engine(config(folder)).load()
    weights.write_bytes(whole)
    edit_json(folder / "config.json", decoder_layers=3)
    with pytest.raises(ConfigError, match=r"The weights of .* lack model\.decoder\.layers\.2"):
        create_engine(config(folder)).load()
    edit_json(folder / "config.json", decoder_layers=2, decoder_ffn_dim=64)
    with pytest.raises(ConfigError, match="does not load"):
        create_engine(config(folder)).load()


def test_a_tokenizer_of_another_model_does_not_load(folder: Path) -> None:
    found = json.loads((folder / "tokenizer.json").read_text())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] != "<|nospeech|>"]
    (folder / "tokenizer.json").write_text(json.dumps(found))
    with pytest.raises(ConfigError, match="has no token no_speech"):
        create_engine(config(folder)).load()
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": found["added_tokens"]}))
    with pytest.raises(ConfigError, match=r"The tokenizer.json of .* cannot be read"):
        create_engine(config(folder)).load()
