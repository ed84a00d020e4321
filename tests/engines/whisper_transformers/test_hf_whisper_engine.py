"""whisper-transformers on a tiny multilingual checkpoint with random weights: what is asked of the model, and what is not."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faster_whisper.feature_extractor import FeatureExtractor
from granite_checkpoints import edit_json
from whisper_checkpoints import write_whisper

from pipeline.config import EngineConfig
from pipeline.engines.whisper.features import log_mels
from pipeline.engines.whisper_transformers.engine import WhisperTransformers
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio

TOKENS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("whisper")
    write_whisper(made)
    return made


def loaded(folder: Path, options: dict[str, Any] | None = None, **fields: Any) -> WhisperTransformers:
    settings = {"max_new_tokens": TOKENS, **(options or {})}
    engine = WhisperTransformers(
        EngineConfig.model_validate(
            {"name": "whisper-transformers", "model": str(folder), "threads": 1, "options": settings, **fields}
        )
    )
    engine.load()
    return engine


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[WhisperTransformers]:
    made = loaded(folder)
    yield made
    made.close()


@pytest.fixture(scope="module")
def clips() -> list[ChunkAudio]:
    noise = np.random.default_rng(3)
    return [ChunkAudio(noise.integers(-9999, 9999, n, np.int16)) for n in (9_000, 30_000, 16_000, 70_000, 48_000)]


def reference(folder: Path, chunk: ChunkAudio, **wishes: Any) -> tuple[str, list[int]]:
    """What transformers' own long way gives for a clip: Whisper's `generate`, told the settings of published models."""
    import torch
    from transformers import GenerationConfig, WhisperForConditionalGeneration

    from pipeline.engines.whisper.prompting import Vocabulary

    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    vocabulary = Vocabulary(
        folder / "tokenizer.json", multilingual=True, task="transcribe", timestamps=False, prompt=""
    )
    tokens = vocabulary.of("en")
    languages = {name: tokens.tokenizer.token_to_id(f"<|{name}|>") for name in ("de", "en", "te", "ha", "ja", "fr")}
    every = {f"<|{name}|>": number for name, number in languages.items()}
    model.generation_config = GenerationConfig(
        **{
            "is_multilingual": True,
            "lang_to_id": every,
            "task_to_id": {"transcribe": tokens.transcribe, "translate": tokens.translate},
            "no_timestamps_token_id": tokens.no_timestamps,
            "decoder_start_token_id": tokens.sot,
            "eos_token_id": tokens.eot,
            "pad_token_id": tokens.eot,
            "suppress_tokens": vocabulary.suppressed(),
            "begin_suppress_tokens": [tokens.encode(" ")[0], tokens.eot],
            "max_length": 448,
        }
    )
    features = torch.from_numpy(log_mels(FeatureExtractor(feature_size=80), chunk.samples))[None]
    found = model.generate(features, max_new_tokens=TOKENS, return_timestamps=False, **wishes)[0].tolist()
    detected = model.detect_language(features)[0].item()
    text = [token for token in found if token < tokens.eot]
    return next(name for name, number in languages.items() if number == detected), text


def test_it_writes_what_transformers_own_generate_writes(
    folder: Path, engine: WhisperTransformers, clips: list[ChunkAudio]
) -> None:
    for task in ("transcribe", "translate"):
        asked = engine if task == "transcribe" else loaded(folder, task=task)
        heard = asked.transcribe([ChunkAudio(clip.samples, "de") for clip in clips[:3]])
        for clip, hypothesis in zip(clips, heard, strict=False):
            _, tokens = reference(folder, clip, language="de", task=task)
            assert hypothesis.text == asked._vocabulary.of("de").decode(tokens).strip() != ""
            assert hypothesis.language == "de"


def test_languages_are_detected_among_those_that_may_be(
    folder: Path, engine: WhisperTransformers, clips: list[ChunkAudio]
) -> None:
    choices = ["de", "en", "te", "ha", "ja", "fr"]
    restricted = loaded(folder, allowed_languages=choices)
    heard = restricted.transcribe(clips)
    assert [one.language for one in heard] == [reference(folder, clip, language="de")[0] for clip in clips]
    free = engine.transcribe(clips)
    assert {one.language for one in free} - set(choices)
    told = engine.transcribe([ChunkAudio(clips[0].samples, "ja"), clips[1]])
    assert (told[0].language, told[1]) == ("ja", free[1])
    assert told[0].text != free[0].text


def test_the_folder_has_no_say_in_how_text_is_made(
    folder: Path, engine: WhisperTransformers, clips: list[ChunkAudio], tmp_path: Path
) -> None:
    lying = Path(shutil.copytree(folder, tmp_path / "model"))
    edit_json(
        lying / "generation_config.json",
        suppress_tokens=list(range(50_000)),
        begin_suppress_tokens=[1, 2, 3],
        forced_decoder_ids=[[1, 50_000]],
        max_length=3,
        do_sample=True,
        temperature=9.0,
        num_beams=4,
        repetition_penalty=5.0,
        is_multilingual=False,
        return_timestamps=True,
    )
    edit_json(
        lying / "config.json",
        suppress_tokens=list(range(50_000)),
        forced_decoder_ids=[[1, 50_000]],
        dropout=0.9,
        eos_token_id=7,
        auto_map={"AutoModel": "evil.Model"},
        dtype="float16",
        tie_word_embeddings=False,
    )
    (lying / "evil.py").write_text("raise SystemExit('executed')")
    assert loaded(lying).transcribe(clips) == engine.transcribe(clips)


def test_beams_find_what_is_at_least_as_likely_and_stay_the_same_in_a_batch(
    folder: Path, engine: WhisperTransformers, clips: list[ChunkAudio]
) -> None:
    told = [ChunkAudio(clip.samples, "en") for clip in clips]
    beams = loaded(folder, {"beam_size": 3})
    together = beams.transcribe(told)
    assert [one.text for one in together] == [beams.transcribe([chunk])[0].text for chunk in told]
    greedy = engine.transcribe(told)
    likelier = [(a.confidence or 0) >= (b.confidence or 0) * 0.999 for a, b in zip(together, greedy, strict=True)]
    assert sum(likelier) >= len(told) - 1  # a beam may lose the greedy path on its way
    assert [one.text for one in together] != [one.text for one in greedy]


def test_prompts_of_any_length_share_a_batch(engine: WhisperTransformers, clips: list[ChunkAudio]) -> None:
    wishes: list[tuple[str, ...]] = [(), ("Dashwood",), ("Margaret Hale", "Helstone"), ("x" * 9999,), ()]
    asked = [
        ChunkAudio(clip.samples, language, keywords)
        for clip, keywords, language in zip(clips, wishes, ("de", None, "en", "fr", None), strict=True)
    ]
    together = engine.transcribe(asked)
    alone = [engine.transcribe([chunk])[0] for chunk in asked]
    assert [(one.text, one.language, one.n_tokens) for one in together] == [
        (one.text, one.language, one.n_tokens) for one in alone
    ]
    assert together[1].text != engine.transcribe(clips[1:2])[0].text


def test_times_rise_and_segments_hold_the_text(folder: Path, clips: list[ChunkAudio]) -> None:
    engine = loaded(folder, {"timestamps": True, "word_times": True})
    for chunk, heard in zip(clips, engine.transcribe(clips), strict=True):
        assert " ".join(segment.text for segment in heard.segments) == heard.text != ""
        times = [time for segment in heard.segments for time in (segment.start_s, segment.end_s)]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= chunk.audio_s


def test_the_token_budget_holds_and_doubt_is_silence(folder: Path, clips: list[ChunkAudio]) -> None:
    heard = loaded(folder, {"max_new_tokens": 5}).transcribe(clips[:2])
    assert {(one.n_tokens, one.stop_reason) for one in heard} == {(5, "length")}
    doubtful = loaded(folder, {"no_speech_threshold": 0.0, "log_prob_threshold": -0.5}).transcribe(clips[:2])
    assert {(one.text, one.stop_reason) for one in doubtful} == {("", "silence")}


def test_weights_that_give_no_numbers_are_found_while_loading(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(folder, tmp_path / "model"))
    tensors = load_file(broken / "model.safetensors")
    tensors["model.decoder.layer_norm.weight"] = torch.full((32,), torch.nan)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="does not run on cpu: The model computed numbers that are not finite"):
        loaded(broken)
