"""The engine from a folder to hypotheses: transformers' own embeddings and text on the clip alone, and chunks of many calls."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from ctc_checkpoints import murmur
from granite_plus_checkpoints import write_granite_plus
from transformers import AutoTokenizer, GraniteSpeechPlusForConditionalGeneration

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.repetition import cut_loop
from pipeline.engines.granite_plus.engine import GranitePlus
from pipeline.engines.granite_plus.prompts import instruction
from pipeline.engines.granite_plus.recognizer import Question, Recognizer
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import ChunkAudio, Hypothesis

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

SIZES = [16_000, 40_037, 8_000, 99_999]
SHORT_STEPS = {"step_s": 5, "overlap_s": 5, "window_s": 20}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plus") / "granite-speech-4.1-2b-plus"
    write_granite_plus(made)
    return made


def loaded(folder: Path, **options: Any) -> GranitePlus:
    config = {"name": "granite-plus", "model": str(folder), "threads": 1, "options": options}
    engine = GranitePlus(EngineConfig.model_validate(config))
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[GranitePlus]:
    made = loaded(folder, mode="speakers", **SHORT_STEPS)
    yield made
    made.close()


@cache
def reference(folder: Path) -> tuple[Any, Any, Ear]:
    """transformers' own model and tokenizer, and our ear with the weights of another copy."""
    model, spare = (
        GraniteSpeechPlusForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()
        for _ in range(2)
    )
    return model, AutoTokenizer.from_pretrained(folder, local_files_only=True), Ear(spare)


@torch.inference_mode()
def generated(folder: Path, asked: str, prefix: str, chunk: ChunkAudio, budget: int) -> str:
    """The text of transformers' own model, tokenizer, chat template and `generate`, from the same features."""
    model, tokenizer, ear = reference(folder)
    features = ear.features(chunk.samples)
    positions = -(-len(features) // 15) * 3
    chat = [{"role": "user", "content": f"{'<|audio|>' * positions} {asked}"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, prefix_text=prefix)
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
    return str(tokenizer.decode(ids[:kept], skip_special_tokens=True))


@pytest.mark.parametrize("n_samples", [1_600, 4_800, 5_121, 16_000, 40_037, 99_999])
@torch.inference_mode()
def test_a_clip_is_heard_as_transformers_hears_it(folder: Path, n_samples: int) -> None:
    model, _, ear = reference(folder)
    clip = murmur(n_samples)
    alone, *_ = ear.listen([clip])
    wanted = model.get_audio_features(ear.features(clip)[None]).pooler_output[0]
    torch.testing.assert_close(alone, wanted, atol=2e-4, rtol=1e-3)
    torch.testing.assert_close(ear.listen([murmur(8_000), clip])[1], alone, atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_several_taps_in_any_order_are_heard_as_well(tmp_path: Path) -> None:
    write_granite_plus(tmp_path, taps=(4, 1, 3))
    model, _, ear = reference(tmp_path)
    assert ear.sizes.encoder.taps == (1, 3, 4, 6)  # 3 of 6: where the encoder feeds its own guess back
    clip = murmur(16_000)
    wanted = model.get_audio_features(ear.features(clip)[None]).pooler_output[0]
    torch.testing.assert_close(ear.listen([clip])[0], wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("mode", "keywords", "per_s"), [("transcript", ("Hale",), 8), ("speakers", (), 10), ("words", (), 24)]
)
def test_text_is_that_of_transformers_on_the_clip_alone(
    folder: Path, mode: Any, keywords: tuple[str, ...], per_s: int
) -> None:
    engine = loaded(folder, mode=mode)
    chunks = [ChunkAudio(murmur(size), keywords=keywords) for size in SIZES[:3]]
    for chunk, found in zip(chunks, engine.transcribe(chunks), strict=True):
        budget = 16 + -(-len(chunk.samples) * per_s // 16_000)
        wanted = generated(folder, instruction(mode, keywords), "", chunk, budget)
        assert found.text == " ".join(wanted.split())
        assert found.confidence is None or 0 < found.confidence <= 1
    engine.close()


def test_a_text_is_continued_as_transformers_continues_it(folder: Path, engine: GranitePlus) -> None:
    recognizer = engine._recognizer
    assert recognizer is not None
    asked, prefix = instruction("speakers"), "[Speaker 1]: hello [Speaker 2]: good morning"
    questions = [Question(murmur(size), asked, prefix[: size % 40], 24) for size in SIZES]
    for question, reply in zip(questions, recognizer.answer(questions), strict=True):
        chunk = ChunkAudio(question.clip)
        assert "".join(piece.text for piece in reply.pieces) == generated(folder, asked, question.prefix, chunk, 24)
        assert all(0 < piece.probability <= 1 for piece in reply.pieces)


def same(found: Hypothesis, wanted: Hypothesis) -> bool:
    """Equal but for the last digits of confidences."""
    left, right = (
        replace(
            one, confidence=None, words=(), segments=tuple(replace(s, confidence=None, words=()) for s in one.segments)
        )
        for one in (found, wanted)
    )
    return left == right


def test_long_chunks_step_together_and_each_as_if_alone(engine: GranitePlus, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[Question]] = []
    answer = Recognizer.answer

    def watched(self: Recognizer, questions: Any) -> Any:
        asked.append(list(questions))
        return answer(self, questions)

    monkeypatch.setattr(Recognizer, "answer", watched)
    chunks = [ChunkAudio(murmur(size)) for size in (16_000 * 47, 99_999, 16_000 * 23)]
    together = engine.transcribe(chunks)
    assert [len(questions) for questions in asked] == [3, 3, *[2] * 3, *[1] * 5]
    assert all(len(question.clip) <= 20 * 16_000 for questions in asked for question in questions)
    longest = [questions[0] for questions in asked]
    assert any(question.prefix for question in longest)
    assert longest[-1].clip[-1] == chunks[0].samples[-1]
    for chunk, found in zip(chunks, together, strict=True):
        assert same(engine.transcribe([chunk])[0], found)
        ends = [(segment.start_s, segment.end_s) for segment in found.segments]
        assert ends[0][0] == 0.0
        assert ends[-1][1] == chunk.audio_s
        assert all(end == start for (_, end), (start, _) in pairwise(ends))
        assert " ".join(segment.text for segment in found.segments) == found.text


def test_a_silent_stretch_is_not_put_to_the_model(engine: GranitePlus, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    answer = Recognizer.answer

    def watched(self: Recognizer, questions: Any) -> Any:
        sizes.extend(len(question.clip) for question in questions)
        return answer(self, questions)

    monkeypatch.setattr(Recognizer, "answer", watched)
    samples = murmur(16_000 * 60)
    samples[: 16_000 * 40] = 0
    engine.transcribe([ChunkAudio(samples)])
    assert len(sizes) == 4


def test_keywords_are_used_in_transcripts_and_ignored_aloud_elsewhere(folder: Path, engine: GranitePlus) -> None:
    plain, hinted = ChunkAudio(murmur(16_000)), ChunkAudio(murmur(16_000), keywords=("Margaret Hale",))
    outcomes, _ = run_batches(engine, [plain, hinted], BatchConfig(), MemoryBudget())
    without, found = outcomes
    assert isinstance(found, Hypothesis)
    assert isinstance(without, Hypothesis)
    assert found.warnings[-1] == "keywords_ignored"
    assert same(replace(found, warnings=without.warnings), without)
    transcripts = loaded(folder)
    many = tuple(f"name number {number}" for number in range(400))
    cut, short = transcripts.transcribe([replace(plain, keywords=many), hinted])
    assert cut.warnings[0] == "keywords_cut"
    assert "keywords_cut" not in short.warnings
    transcripts.close()


def test_missing_roles_are_told(folder: Path, tmp_path: Path) -> None:
    write_granite_plus(tmp_path)
    tokenizer = (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(tokenizer.replace("<|start_of_role|>", "<|other|>"))
    with pytest.raises(ConfigError, match=r"lacks <\|start_of_role\|>"):
        loaded(tmp_path)


def test_a_closed_engine_is_dead(folder: Path) -> None:
    engine = loaded(folder)
    engine.close()
    with pytest.raises(EngineDead, match="not loaded"):
        engine.transcribe([ChunkAudio(murmur(8_000))])
