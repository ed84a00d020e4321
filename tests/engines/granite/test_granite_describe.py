"""What is said of a model without its weights, and what is refused before a run begins."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from granite_checkpoints import edit_json, write_granite

from pipeline.config import EngineConfig
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    write_granite(made)
    return made


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    return copytree(checkpoint, tmp_path / "granite-speech-4.1-2b")


def describe(folder: Path, task: str = "transcribe", language: str | None = None, **options: Any) -> EngineSpec:
    config = {"name": "granite", "model": str(folder), "task": task, "language": language, "options": options}
    return describe_engine(EngineConfig.model_validate(config))


def test_what_it_serves(folder: Path) -> None:
    spec = describe(folder)
    assert spec.languages == {"en", "fr", "de", "es", "pt", "ja"}
    assert spec.tasks == {"transcribe", "translate"}
    assert spec.features == {"keywords", "confidence"}
    assert spec.max_chunk_s == 30
    assert describe(folder, "translate").languages == {"fr", "de", "es", "pt", "ja"}
    assert describe(folder, "translate", "en-US", target_language="zh").languages == {"en"}
    assert describe(folder, "translate", "ja", target_language="en-GB").languages == {"fr", "de", "es", "pt", "ja"}


@pytest.mark.parametrize(
    ("task", "language", "options", "complaint"),
    [
        ("translate", "fr", {"target_language": "de"}, "cannot translate 'fr' into 'de'"),
        ("translate", "en", {}, "cannot translate 'en' into 'en'"),
        ("translate", None, {"target_language": "nl"}, "cannot translate into 'nl'"),
        ("translate", "zh", {}, r"engine.language cannot be 'zh'"),
        ("transcribe", "it", {}, r"engine.language cannot be 'it'"),
        ("transcribe", None, {"target_language": "fr"}, "set engine.task=translate"),
        ("transcribe", None, {"version": "4.0", "punctuation": True}, "writes no punctuation"),
        ("transcribe", None, {"version": "3.2"}, "engine.options.version cannot be '3.2'"),
        ("transcribe", None, {"nonsense": 1}, "no option 'nonsense'"),
    ],
)
def test_what_it_refuses(
    folder: Path, task: str, language: str | None, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        describe(folder, task, language, **options)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model_type": "granite_speech_nar"}, "set engine.name=granite-nar"),
        ({"model_type": "granite_speech5_ctc"}, "set engine.name=ctc"),
        ({"model_type": "whisper"}, "is of the type 'whisper'"),
        ({"has_lora_adapter": True}, "lacks adapter_config.json: a LoRA adapter belongs to it"),
        (
            {"has_lora_adapter": None},
            "lacks adapter_config.json",
        ),  # what transformers takes it for where it is not said
        ({"text_config": {"max_position_embeddings": 4096}}, "logits_scaling"),
        ({"text_config": {"max_position_embeddings": 512, "logits_scaling": 8.0}}, "has 512 positions"),
        ({"text_config": 7}, "max_position_embeddings"),
    ],
)
def test_other_models_are_refused(folder: Path, fields: dict[str, Any], complaint: str) -> None:
    edit_json(folder / "config.json", **fields)
    with pytest.raises(ConfigError, match=complaint):
        describe(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"lacks {name}"):
        describe(folder)


def test_a_broken_config_is_told(folder: Path) -> None:
    for broken, complaint in (("{", "cannot be read"), ("[]", "holds no settings"), ("[" * 10**5, "cannot be read")):
        (folder / "config.json").write_text(broken)
        with pytest.raises(ConfigError, match=complaint):
            describe(folder)
    (folder / "config.json").write_text(" " * (2**20 + 1))
    with pytest.raises(ConfigError, match="has 1048577 bytes"):
        describe(folder)


def test_versions_are_told_by_names_and_never_guessed(folder: Path) -> None:
    assert describe(folder, punctuation=True)
    older = folder.rename(folder.with_name("granite-4.0-1b-speech"))
    with pytest.raises(ConfigError, match="writes no punctuation"):
        describe(older, punctuation=True)
    unnamed = older.rename(folder.with_name("ours"))
    with pytest.raises(ConfigError, match=r"engine.options.version to '3.3' or '4.0' or '4.1'"):
        describe(unnamed)
    assert describe(unnamed, version="4.0")
    (unnamed / "out_llm.safetensors").write_bytes(b"")
    assert describe(unnamed, punctuation=True)


def test_shards_are_found_and_change_the_revision(tmp_path: Path) -> None:
    write_granite(tmp_path, shard_bytes="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    before = describe(tmp_path, version="4.1").revision
    assert describe(tmp_path, version="4.1").revision == before
    shards[-1].write_bytes(shards[-1].read_bytes() + b" ")
    assert describe(tmp_path, version="4.1").revision != before
    shards[0].unlink()
    with pytest.raises(ConfigError, match=f"lacks {shards[0].name}, which model.safetensors.index.json names"):
        describe(tmp_path, version="4.1")
    edit_json(tmp_path / "model.safetensors.index.json", weight_map={"a": 1})
    with pytest.raises(ConfigError, match="names no files"):
        describe(tmp_path, version="4.1")
