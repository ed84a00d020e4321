"""What is said of a Plus model without its weights, and what is refused before a run begins."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from granite_checkpoints import edit_json
from granite_plus_checkpoints import write_granite_plus

from pipeline.config import EngineConfig
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.errors import ConfigError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("made")
    write_granite_plus(made)
    return made


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    return copytree(checkpoint, tmp_path / "granite-speech-4.1-2b-plus")


def describe(
    folder: Path, task: str = "transcribe", language: str | None = None, name: str = "granite-plus", **options: Any
) -> EngineSpec:
    config = {"name": name, "model": str(folder), "task": task, "language": language, "options": options}
    return describe_engine(EngineConfig.model_validate(config))


@pytest.mark.parametrize(
    ("mode", "feature"), [("transcript", "keywords"), ("speakers", "speakers"), ("words", "word_times")]
)
def test_what_it_serves(folder: Path, mode: str, feature: str) -> None:
    spec = describe(folder, mode=mode, language="pt-BR")
    assert spec.languages == {"en", "fr", "de", "es", "pt"}
    assert spec.tasks == {"transcribe"}
    assert spec.features == {feature, "confidence"}
    assert spec.max_chunk_s == 1800
    assert describe(folder, mode=mode, max_chunk_s=300).max_chunk_s == 300


@pytest.mark.parametrize(
    ("task", "language", "options", "complaint"),
    [
        ("translate", "fr", {}, r"engine.task cannot be 'translate': .* granite with granite-speech-4.1-2b"),
        ("transcribe", "ja", {}, r"engine.language cannot be 'ja': .* granite with granite-speech-4.1-2b"),
        ("transcribe", None, {"mode": "both"}, "engine.options.mode cannot be 'both'"),
        ("transcribe", None, {"mode": "words", "keywords": ["Hale"]}, "no keywords while engine.options.mode is words"),
        ("transcribe", None, {"mode": "words", "window_s": 90}, "A window of 90 s cannot hold"),
        ("transcribe", None, {"mode": "words", "step_s": 200}, r"may need \d+; make one"),
        ("transcribe", None, {"mode": "words", "tokens_per_s": 40}, "may need"),
        ("transcribe", None, {"nonsense": 1}, "no option 'nonsense'"),
    ],
)
def test_what_it_refuses(
    folder: Path, task: str, language: str | None, options: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        describe(folder, task, language, **options)


def test_calls_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    write_granite_plus(tmp_path, positions=2048)
    assert describe(tmp_path, step_s=30)
    with pytest.raises(ConfigError, match=r"has 2048 positions, and a call with .* may need"):
        describe(tmp_path, mode="words")


def test_each_engine_names_the_other(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"set engine\.name=granite-plus"):
        describe(folder, name="granite")
    edit_json(folder / "config.json", model_type="granite_speech")
    with pytest.raises(ConfigError, match=r"set engine\.name=granite\."):
        describe(folder)
    edit_json(folder / "config.json", model_type="whisper")
    with pytest.raises(ConfigError, match=r"is of the type 'whisper'.*granite-speech-4\.1-2b-plus"):
        describe(folder)


def test_an_adapter_is_refused_but_not_the_word_of_the_config(folder: Path) -> None:
    edit_json(folder / "config.json", has_lora_adapter=True)
    assert describe(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="LoRA adapter"):
        describe(folder)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"lacks tokenizer.json; take .*-plus"):
        describe(folder)
