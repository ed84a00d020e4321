"""What the ctc engine says of a model before it reads any weights, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from pipeline.config import EngineConfig
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.engines.ctc.checkpoint import read_checkpoint
from pipeline.engines.model_files import find_model
from pipeline.engines.requests import OFFERS, Wish, shortfall
from pipeline.errors import ConfigError

CONFIGS: dict[str, dict[str, Any]] = {
    "turboctc": {"model_type": "granite_speech5_ctc", "architectures": ["GraniteSpeech5ForCTC"]},
    "parakeet": {"model_type": "parakeet_ctc", "encoder_config": {"subsampling_factor": 8}},
    "wav2vec2": {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "feat_extract_norm": "layer"},
    "old wav2vec2": {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
}


def write(
    folder: Path,
    config: dict[str, Any],
    *,
    card: str | None = None,
    extractor: Mapping[str, Any] = MappingProxyType({}),
) -> Path:
    """The files that describing reads; the weights are never opened."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps({"sampling_rate": 16_000, **extractor}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"no weights")
    if card is not None:
        (folder / "README.md").write_text(card)
    return folder


def described(folder: Path, **fields: Any) -> EngineSpec:
    return describe_engine(EngineConfig(**{"name": "ctc", "model": str(folder)} | fields))


def test_turboctc_says_what_it_is(tmp_path: Path) -> None:
    spec = described(write(tmp_path, CONFIGS["turboctc"], card="---\nlicense: apache-2.0\nlanguage:\n- en\n---\n# x\n"))
    assert (spec.languages, spec.tasks) == (frozenset({"en"}), frozenset({"transcribe"}))
    assert (spec.padding, spec.max_chunk_s, spec.licence) == ("longest", 30.0, "apache-2.0")
    assert spec.features == {"confidence", "word_times"}
    assert [offer.languages for offer in OFFERS if offer.engine == "ctc"] == [spec.languages]
    assert described(tmp_path, options={"max_chunk_s": 12.5}).max_chunk_s == 12.5


@pytest.mark.parametrize(
    ("name", "frame_s", "is_masked"),
    [("turboctc", 0.08, True), ("parakeet", 0.08, True), ("wav2vec2", 0.02, True), ("old wav2vec2", 0.02, False)],
)
def test_frames_and_masks_follow_from_the_config(tmp_path: Path, name: str, frame_s: float, is_masked: bool) -> None:
    checkpoint = read_checkpoint(find_model(str(write(tmp_path, CONFIGS[name]))))
    assert (checkpoint.frame_s, checkpoint.is_masked) == (frame_s, is_masked)
    assert "README.md" not in checkpoint.files
    spec = described(tmp_path, options={"languages": ["en"]})
    assert spec.padding == ("longest" if is_masked else "none")


@pytest.mark.parametrize(
    ("card", "languages"),
    [
        ("---\nlanguage: de\n---\n", {"de"}),
        ("---\nlanguage:\n- pt-BR\n- es\n- multilingual\n---\n# Model\n---\nlanguage: fr\n---\n", {"pt", "es"}),
        ("---\nlanguage: [unclosed\n---\n", None),
        ("---\n- a list\n---\n", None),
        ("---\n" + "[" * 600 + "\n---\n", None),
        ("language: de\n", None),
        ("", None),
    ],
)
def test_languages_come_from_the_model_card(tmp_path: Path, card: str, languages: set[str] | None) -> None:
    write(tmp_path, CONFIGS["wav2vec2"], card=card)
    if languages is None:
        with pytest.raises(ConfigError, match=r"does not say which languages it knows; set engine\.options\.languages"):
            described(tmp_path)
    else:
        assert described(tmp_path).languages == languages
    assert described(tmp_path, options={"languages": ["nl-BE", "FR"]}).languages == {"nl", "fr"}


def test_a_request_that_the_model_cannot_serve_is_refused(tmp_path: Path) -> None:
    write(tmp_path, CONFIGS["turboctc"])
    with pytest.raises(ConfigError, match=r"engine\.task cannot be 'translate': .* cannot translate; whisper with"):
        described(tmp_path, task="translate")
    with pytest.raises(ConfigError, match=r"cannot transcribe 'de' \(it knows en\); .*whisper with .* can"):
        described(tmp_path, language="de")
    lack = shortfall(Wish.of("transcribe", "en", keywords=True), described(tmp_path))
    assert lack is not None
    assert "cannot take keywords" in lack


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (
            {"model_type": "granite_speech"},
            "model_type 'granite_speech'; it runs granite_speech5_ctc, parakeet_ctc, wav",
        ),
        ({"model_type": "parakeet_tdt"}, "model_type 'parakeet_tdt'; it runs"),
        ({"model_type": ["wav2vec2"]}, "model_type"),
        ({}, "model_type None; it runs"),
        (CONFIGS["wav2vec2"] | {"architectures": ["Wav2Vec2ForPreTraining"]}, "no CTC head: .* Wav2Vec2ForPreTraining"),
        (CONFIGS["wav2vec2"] | {"adapter_attn_dim": 16}, "needs adapters"),
        (CONFIGS["wav2vec2"] | {"add_adapter": True}, "needs adapters"),
        (CONFIGS["wav2vec2"] | {"conv_stride": 5}, "not that of a CTC model"),
        (CONFIGS["parakeet"] | {"encoder_config": [1]}, "not that of a CTC model"),
    ],
)
def test_other_models_are_refused_in_one_sentence(tmp_path: Path, config: dict[str, Any], says: str) -> None:
    write(tmp_path, config)
    with pytest.raises(ConfigError, match=says) as caught:
        described(tmp_path)
    assert str(caught.value).count(". ") == 0


@pytest.mark.parametrize("extractor", [{"num_mel_bins": 128}, {"sampling_rate": 8_000}, {"logmel_floor_db": 10.0}])
def test_features_that_are_not_made_here_are_refused(tmp_path: Path, extractor: dict[str, Any]) -> None:
    (name,) = extractor
    with pytest.raises(ConfigError, match=f"takes audio features with {name}"):
        described(write(tmp_path, CONFIGS["turboctc"], extractor=extractor))


def test_settings_of_the_extractor_may_stand_in_the_processor(tmp_path: Path) -> None:
    write(tmp_path, CONFIGS["turboctc"])
    (tmp_path / "preprocessor_config.json").unlink()
    processor = tmp_path / "processor_config.json"
    processor.write_text(json.dumps({"feature_extractor": {"num_mel_bins": 80}}))
    assert described(tmp_path).languages == {"en"}
    processor.write_text(json.dumps({"feature_extractor": {"num_mel_bins": 64}}))
    with pytest.raises(ConfigError, match="num_mel_bins 64"):
        described(tmp_path)
    processor.write_text(json.dumps({"processor_class": "GraniteSpeech5Processor"}))
    with pytest.raises(ConfigError, match=r"lacks preprocessor_config\.json"):
        described(tmp_path)


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("config.json", "lacks config.json"),
        ("model.safetensors", "lacks model.safetensors"),
        ("preprocessor_config.json", "lacks preprocessor_config.json"),
        ("tokenizer.json", "lacks tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, gone: str, says: str) -> None:
    write(tmp_path, CONFIGS["turboctc"])
    (tmp_path / gone).unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle is no replacement")
    with pytest.raises(ConfigError, match=says):
        described(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", '"text"', "[" * 100_000])
def test_a_broken_config_is_a_sentence(tmp_path: Path, text: str) -> None:
    write(tmp_path, CONFIGS["turboctc"])
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"^The config\.json of .*; download it again\.$"):
        described(tmp_path)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"device": "tpu"}, "no device 'tpu'; engine.device can be auto, cpu or cuda"),
        ({"options": {"attention": "flash"}}, "engine.options.attention cannot be 'flash'"),
        ({"options": {"max_chunk_s": 0}}, "engine.options.max_chunk_s cannot be 0"),
        ({"options": {"beam_size": 5}}, "no option 'beam_size'"),
    ],
)
def test_an_option_that_cannot_be_is_named(tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        described(write(tmp_path, CONFIGS["turboctc"]), **fields)
