"""The engine from a folder to hypotheses: what transformers' own `generate` gives on the clip alone, whatever the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from ctc_checkpoints import murmur
from granite_checkpoints import write_granite
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GraniteSpeechForConditionalGeneration

from pipeline.config import EngineConfig
from pipeline.engines.granite.engine import Granite
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import ChunkAudio

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

SIZES = [16_000, 40_037, 8_000, 99_999, 1_600, 160_000]
HINTS = ("Margaret Hale", "Dashwood")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("granite") / "granite-speech-4.1-2b"
    write_granite(made)
    return made


def loaded(folder: Path, task: str = "transcribe", **options: Any) -> Granite:
    config = {"name": "granite", "model": str(folder), "task": task, "threads": 1, "options": options}
    engine = Granite(EngineConfig.model_validate(config))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Granite]:
    made = loaded(folder)
    yield made
    made.close()


@cache
def reference(folder: Path) -> tuple[Any, Any, Ear]:
    """transformers' own model and tokenizer, and our features, which have a test of their own."""
    model, spare = (
        GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval() for _ in range(2)
    )
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), Ear(spare)


@torch.inference_mode()
def generated(folder: Path, instruction: str, chunk: ChunkAudio, budget: int) -> str:
    """The text of transformers' own model, tokenizer, chat template and `generate`, from the same features."""
    model, tokenizer, ear = reference(folder)
    features = ear.features(chunk.samples)
    positions = -(-len(features) // 15) * 3
    chat = [{"role": "user", "content": "<|audio|>" * positions + instruction}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    inputs = tokenizer(text, return_tensors="pt")
    found = model.generate(
        **{name: inputs[name] for name in ("input_ids", "attention_mask")},
        input_features=features[None],
        input_features_mask=torch.ones(1, positions, dtype=torch.bool),
        max_new_tokens=budget,
        do_sample=False,
        num_beams=1,
    )
    ids = found[0, inputs["input_ids"].shape[1] :].tolist()
    kept = next((kept for size in range(len(ids)) if (kept := cut_loop(ids[: size + 1])) is not None), len(ids))
    return str(tokenizer.decode(ids[:kept], skip_special_tokens=True)).strip()


@pytest.mark.parametrize(
    ("task", "options", "keywords", "instruction"),
    [
        ("transcribe", {}, (), "can you transcribe the speech into a written format?"),
        ("transcribe", {"punctuation": True}, (), "transcribe the speech with proper punctuation and capitalization."),
        ("transcribe", {}, HINTS, "transcribe the speech to text. Keywords: Margaret Hale, Dashwood"),
        ("transcribe", {"keywords": ["Eyre"]}, (), "transcribe the speech to text. Keywords: Eyre"),
        (
            "transcribe",
            {"version": "4.0", "keywords": ["Eyre"]},
            HINTS,
            "can you transcribe the speech into a written format? Keywords: Margaret Hale, Dashwood",
        ),
        ("translate", {}, (), "translate the speech to English."),
        ("translate", {"target_language": "zh"}, (), "translate the speech to Mandarin."),
    ],
)
def test_text_is_that_of_transformers_on_the_clip_alone(
    folder: Path, task: str, options: dict[str, Any], keywords: tuple[str, ...], instruction: str
) -> None:
    engine = loaded(folder, task, **options)
    chunks = [ChunkAudio(murmur(size), keywords=keywords) for size in SIZES[:3]]
    for chunk, found in zip(chunks, engine.transcribe(chunks), strict=True):
        budget = 16 + -(-len(chunk.samples) * 8 // 16_000)
        assert found.text == generated(folder, instruction, chunk, budget)
        assert found.confidence is None or 0 < found.confidence <= 1
    engine.close()


def test_how_rows_are_grouped_changes_nothing(folder: Path, engine: Granite) -> None:
    chunks = [ChunkAudio(murmur(size), keywords=HINTS if size % 3 else ()) for size in SIZES]
    wanted = engine.transcribe(chunks)
    small = loaded(folder, max_positions=1024)
    for found, one in zip(small.transcribe(chunks[::-1])[::-1], wanted, strict=True):
        assert replace(found, confidence=None) == replace(one, confidence=None)
        assert found.confidence == pytest.approx(one.confidence, rel=1e-4)
    small.close()


def test_why_a_row_ended_is_said(folder: Path) -> None:
    short = loaded(folder, max_new_tokens=5)
    (found,) = short.transcribe([ChunkAudio(murmur(16_000))])
    assert (found.stop_reason, found.n_tokens) == ("length", 5)
    short.close()
    long = loaded(folder, tokens_per_s=100, max_new_tokens=1000)
    assert "loop" in {one.stop_reason for one in long.transcribe([ChunkAudio(murmur(n)) for n in SIZES])}
    long.close()


def test_too_many_keywords_are_cut_and_that_is_said(engine: Granite) -> None:
    many = tuple(f"name number {number}" for number in range(400))
    mate = ChunkAudio(murmur(8_000))
    found, other = engine.transcribe([ChunkAudio(murmur(16_000), keywords=many), mate])
    assert found.warnings[0] == "keywords_cut"
    assert other == replace(engine.transcribe([mate])[0], confidence=other.confidence)


def test_a_single_language_is_recorded(folder: Path) -> None:
    engine = loaded(folder, "translate", target_language="fr")
    assert [one.language for one in engine.transcribe([ChunkAudio(murmur(8_000))])] == ["en"]
    engine.close()


def test_weights_that_do_not_fit_are_told(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "granite-speech-4.1-2b"
    write_granite(broken)
    tensors = load_file(broken / "model.safetensors")
    gone = next(name for name in tensors if "projector" in name)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, broken / "model.safetensors")
    with pytest.raises(ConfigError, match=r"The weights of .* lack .*projector"):
        loaded(broken)
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="does not load"):
        loaded(broken)


def test_numbers_that_are_none_are_told_at_load(tmp_path: Path) -> None:
    broken = tmp_path / "granite-speech-4.1-2b"
    write_granite(broken)
    tensors = load_file(broken / "model.safetensors")
    name = next(name for name in tensors if name.endswith("lm_head.weight"))
    tensors[name][:] = torch.nan
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="not finite"):
        loaded(broken)


def test_a_closed_engine_is_dead(folder: Path) -> None:
    engine = loaded(folder)
    engine.close()
    with pytest.raises(EngineDead, match="not loaded"):
        engine.transcribe([ChunkAudio(murmur(8_000))])
