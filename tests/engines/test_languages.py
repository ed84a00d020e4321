"""Allowed languages: what is refused at once, what detection chooses, and what a transcript says of the rest."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.commands import validate
from pipeline.config import EngineConfig
from pipeline.config.file import load_config
from pipeline.engines.base import describe_engine
from pipeline.engines.languages import detection_choices, is_allowed
from pipeline.engines.whisper import Whisper
from pipeline.engines.whisper.weights import fetch_model
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio, Samples

CODES = ("en", "de", "fr", "pt", "yue")


def fake(*known: str, **fields: object) -> EngineConfig:
    return EngineConfig.model_validate({"name": "fake", "options": {"languages": list(known) or None}, **fields})


@given(st.lists(st.sampled_from(CODES)), st.sampled_from(CODES), st.sampled_from(["", "-BR", "_x"]))
def test_a_language_is_allowed_by_its_first_part(allowed: list[str], language: str, region: str) -> None:
    assert is_allowed(language + region, allowed) is (not allowed or language in allowed)
    assert is_allowed(language, [tag.upper() + region for tag in allowed]) is (not allowed or language in allowed)
    assert is_allowed(None, allowed)


@given(st.lists(st.sampled_from(CODES)), st.sets(st.sampled_from(CODES)))
def test_detection_chooses_among_what_is_known_and_allowed(allowed: list[str], known: set[str]) -> None:
    restricted = detection_choices(fake(allowed_languages=allowed), known)
    assert restricted == (known & set(allowed) if allowed else known)
    assert detection_choices(fake(allowed_languages=allowed, language_policy="flag"), known) == known


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            fake("en", "de", allowed_languages=["en", "german"], language="en"),
            "holds 'german', which no engine here knows",
        ),
        (
            fake("en", "de", allowed_languages=["fr", "pt-BR"], language="en"),
            r"knows none of .*allowed_languages \(fr, pt\)",
        ),
        (fake("en", "de", allowed_languages=["en"]), "does not detect languages.* set engine.language, or"),
        (fake(allowed_languages=["en"]), "does not detect languages"),
        (EngineConfig(allowed_languages=["de"]), "tiny.en knows none of"),
    ],
)
def test_a_list_that_cannot_be_kept_is_refused(config: EngineConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        describe_engine(config)


@pytest.mark.parametrize(
    "config",
    [
        fake("en", "de", allowed_languages=["en", "fr"], language="en-GB"),
        fake("en", "de", allowed_languages=["fr", "en"], language_policy="flag"),
        fake("en", allowed_languages=["en", "de"]),  # what it hears can be no other
        fake(allowed_languages=["anything"], language_policy="flag"),
        EngineConfig(allowed_languages=["en", "de"]),
    ],
)
def test_a_list_that_can_be_kept_is_taken(config: EngineConfig) -> None:
    describe_engine(config)


def test_validate_names_rows_in_other_languages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"id": str(number), "uri": f"{number}.wav", "language": tag} for number, tag in enumerate(["en-US", "de", "de"])
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "x", "uri": "x.wav"}]))
    given_ = ["engine.name=fake", f"manifest={tmp_path / 'm.jsonl'}", f"output={tmp_path}", "engine.language=fr"]
    assert validate(load_config(None, [*given_, "engine.allowed_languages=[en, fr]"]), False, None) == 2
    assert (
        "2 rows, the first in line 2: 'de' is not in engine.allowed_languages (such rows would be flagged "
        "language_not_allowed)." in capsys.readouterr().out
    )
    assert validate(load_config(None, [*given_, "engine.allowed_languages=[en, de]"]), False, None) == 2
    assert "1 row, the first in line 4: 'fr' is not in engine.allowed_languages" in capsys.readouterr().out
    assert validate(load_config(None, [*given_, "engine.allowed_languages=[en, de, fr]"]), False, None) == 0


def murmur(seed: int) -> Samples:
    """Noise in syllables."""
    random, time_s = np.random.default_rng(seed), np.arange(48_000) / 16_000
    return (
        (random.standard_normal(48_000) * (1 + np.sin((9 + seed) * time_s)) * 4000).clip(-32768, 32767).astype(np.int16)
    )


@pytest.fixture(scope="module")
def multilingual(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Whisper in CTranslate2's format that knows 99 languages."""
    transformers = pytest.importorskip("transformers")
    import torch
    from ctranslate2.converters.transformers import WhisperLoader

    folder, shipped = tmp_path_factory.mktemp("multilingual"), fetch_model("tiny.en")
    # As in Whisper's own: the multilingual vocabulary has one piece of text more, an empty one, before the special tokens.
    tokens = (shipped / "vocabulary.txt").read_text("utf-8").removesuffix("\n").split("\n")
    tokenizer = json.loads((shipped / "tokenizer.json").read_text("utf-8"))
    end = tokens.index("<|endoftext|>")
    tokens.insert(end, "")
    for token in tokenizer["added_tokens"]:
        token["id"] += token["id"] >= end
    pieces = tokenizer["model"]["vocab"]
    tokenizer["model"]["vocab"] = {piece: at + (at >= end) for piece, at in pieces.items()} | {"": end}
    torch.manual_seed(5)
    size = dict.fromkeys(("encoder_layers", "decoder_layers", "encoder_attention_heads", "decoder_attention_heads"), 1)
    config = transformers.WhisperConfig(
        vocab_size=len(tokens), d_model=64, encoder_ffn_dim=64, decoder_ffn_dim=64, init_std=0.5, **size
    )
    model = transformers.WhisperForConditionalGeneration(config).eval()
    spec = WhisperLoader().get_model_spec(model)
    spec.register_vocabulary(tokens)
    first = tokens.index("<|startoftranscript|>") + 1
    spec.config.lang_ids = list(range(first, first + 99))
    spec.config.suppress_ids = spec.config.suppress_ids_begin = []
    spec.config.alignment_heads = [[0, 0]]
    spec.validate()
    spec.optimize(quantization="int8")
    spec.save(str(folder))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    return folder


def heard(folder: Path, chunks: list[ChunkAudio], **fields: object) -> list[str | None]:
    options = {"beam_size": 1, "max_new_tokens": 4, "no_speech_threshold": 1.0}
    config = EngineConfig.model_validate({"model": str(folder), "options": options, **fields})
    describe_engine(config)
    engine = Whisper(config)
    engine.load()
    try:
        return [one.language for one in engine.transcribe(chunks)]
    finally:
        engine.close()


def test_whisper_detects_the_best_of_the_allowed_languages(multilingual: Path) -> None:
    chunks = [ChunkAudio(murmur(seed)) for seed in range(3)]
    free = heard(multilingual, chunks)
    assert heard(multilingual, chunks, allowed_languages=["en", "de"], language_policy="flag") == free
    spec = describe_engine(EngineConfig(model=str(multilingual)))
    others = sorted((spec.languages or frozenset()) - set(map(str, free)))
    second = heard(multilingual, chunks, allowed_languages=others)
    assert not set(second) & set(free)
    # The same order of preference, whatever else is on the list.
    assert heard(multilingual, chunks[:1], allowed_languages=[str(free[0]), *others]) == free[:1]
    assert heard(multilingual, chunks[:1], allowed_languages=[str(second[0]), others[0], others[-1]]) == second[:1]
    # A language that is named is not detected, allowed or not.
    named = [ChunkAudio(murmur(0), "de"), ChunkAudio(murmur(0))]
    assert heard(multilingual, named, allowed_languages=["fr"]) == ["de", "fr"]
