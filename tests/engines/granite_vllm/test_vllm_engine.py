"""The vllm engine without vLLM: what it says of a model, what it refuses, what it would send, and how it reads an answer.

That vLLM itself does with it what is expected is not tested anywhere: it cannot be installed where these tests run.
"""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from granite_checkpoints import CHAT_TEMPLATE, edit_json, write_granite

from pipeline.config import EngineConfig
from pipeline.engines.base import create_engine, describe_engine
from pipeline.engines.granite.prompts import transcription
from pipeline.engines.granite_vllm.exchange import Words, pad_clip
from pipeline.errors import ConfigError, EngineError

without_vllm = pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
REPO = Path(__file__).parents[3]


class Logprob(NamedTuple):
    """As vllm.logprobs.Logprob."""

    logprob: float


class Completion(NamedTuple):
    """The fields of vllm.outputs.CompletionOutput that are read."""

    token_ids: Sequence[int]
    logprobs: Sequence[Mapping[int, Logprob]] | None
    finish_reason: str | None


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("granite")
    write_granite(made)
    return made


@pytest.fixture(scope="module")
def words(folder: Path) -> Words:
    return Words(folder / "tokenizer.json", "tiny")


def config(folder: Path, options: dict[str, Any] | None = None, **fields: Any) -> EngineConfig:
    settings = {"version": "4.1", **(options or {})}
    return EngineConfig.model_validate({"name": "vllm", "model": str(folder), "options": settings, **fields})


def completion(words: Words, text: str, reason: str = "stop", probability: float = 0.5) -> Completion:
    ids = words._tokenizer.encode(text).ids
    ids += [0] if reason == "stop" else []  # the end token comes back too
    return Completion(ids, [{token: Logprob(math.log(probability))} for token in ids], reason)


@without_vllm
def test_without_vllm_it_says_how_to_get_it(folder: Path) -> None:
    engine = create_engine(config(folder))
    with pytest.raises(ConfigError) as caught:
        engine.load()
    assert str(caught.value) == ('The vllm engine needs vllm; run `pip install "quarry-asr[vllm]"` (docs/install.md).')
    engine.close()


@without_vllm
def test_a_run_stops_with_that_sentence(folder: Path, tmp_path: Path) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.random.default_rng(0).integers(-9, 9, 16_000, np.int16), 16_000)
    (tmp_path / "manifest.jsonl").write_text('{"id": "a", "uri": "a.wav", "language": "en"}\n')
    settings = [f"manifest={tmp_path / 'manifest.jsonl'}", f"output={tmp_path / 'out'}", "runtime.kind=local"]
    settings += ["engine.name=vllm", f"engine.model={folder}", "engine.options={version: '4.1'}"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", "run", *settings], capture_output=True, text=True, cwd=REPO
    )
    assert done.returncode == 2
    assert 'pip install "quarry-asr[vllm]"' in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_it_describes_what_the_granite_engine_describes(folder: Path) -> None:
    ours, theirs = (describe_engine(config(folder, name=name)) for name in ("vllm", "granite"))
    assert ours.name == "vllm"
    for field in ("model", "revision", "languages", "tasks", "features", "max_chunk_s", "padding", "licence"):
        assert getattr(ours, field) == getattr(theirs, field)


def test_describing_imports_neither_vllm_nor_torch(folder: Path) -> None:
    code = (
        "import sys; from pipeline.config import EngineConfig; from pipeline.engines.base import describe_engine\n"
        f"describe_engine(EngineConfig.model_validate_json({config(folder).model_dump_json()!r}))\n"
        "print(sorted({'vllm', 'torch', 'transformers', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPO)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"device": "cpu"}, "The vllm engine has no device 'cpu'"),
        ({"options": {"beam_size": 5}}, "The vllm engine has no option 'beam_size'"),
        ({"options": {"version": "4.0", "punctuation": True}}, "writes no punctuation"),
        ({"options": {"target_language": "de"}}, "does nothing while engine.task is transcribe"),
        ({"task": "translate", "options": {"target_language": "fi"}}, "The vllm engine cannot translate into 'fi'"),
        ({"language": "fi"}, "cannot transcribe 'fi'"),
        ({"options": {"pad_to_s": 0}}, "engine.options.pad_to_s cannot be 0"),
    ],
)
def test_what_cannot_be_is_refused_before_vllm_is_asked(folder: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        describe_engine(config(folder, **fields))


def test_an_adapter_and_another_model_are_refused(tmp_path: Path) -> None:
    write_granite(tmp_path)
    edit_json(tmp_path / "config.json", has_lora_adapter=True)
    with pytest.raises(
        ConfigError, match=r"LoRA adapter, as granite-speech-3\.3 does, which the vllm engine cannot run"
    ):
        describe_engine(config(tmp_path))
    edit_json(tmp_path / "config.json", model_type="granite_speech_nar", has_lora_adapter=False)
    with pytest.raises(ConfigError, match=r"set engine\.name=granite-nar"):
        describe_engine(config(tmp_path))


def test_a_prompt_is_the_published_one_token_by_token(folder: Path, words: Words) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = CHAT_TEMPLATE
    for instruction in (transcription("4.1"), transcription("4.1", punctuated=True), transcription("4.0", ["Hale"])):
        messages = [{"role": "user", "content": f"<|audio|>{instruction}"}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert words.prompt(instruction) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_words_of_a_row_are_never_special_tokens(words: Words) -> None:
    audio = words._tokenizer.token_to_id("<|audio|>")
    prompt = words.prompt(transcription("4.1", ["<|audio|>", "<|end_of_text|>"]))
    assert prompt.count(audio) == 1
    assert words._tokenizer.token_to_id("<|end_of_text|>") not in prompt


def test_an_answer_is_text_confidence_and_why_it_ended(words: Words) -> None:
    heard = words.read(completion(words, " the quick brown fox"))
    assert (heard.text, heard.stop_reason) == ("the quick brown fox", "eos")
    assert heard.confidence == pytest.approx(0.5)
    assert heard.n_tokens == len(words._tokenizer.encode(" the quick brown fox").ids)
    assert words.read(completion(words, "the quick", "length")).stop_reason == "length"
    nothing = words.read(completion(words, ""))
    assert (nothing.text, nothing.confidence, nothing.n_tokens) == ("", None, 0)
    with pytest.raises(EngineError, match="vLLM ended a request with 'abort'"):
        words.read(completion(words, "the", "abort"))


def test_a_text_that_goes_round_in_a_circle_is_cut_after_its_first_turn(words: Words) -> None:
    heard = words.read(completion(words, "the fox" + " jumps over" * 40, "length"))
    assert (heard.text, heard.stop_reason) == ("the fox jumps over", "loop")
    assert words.read(completion(words, "no no no no")).stop_reason == "eos"


def test_clips_are_filled_up_to_few_lengths_and_never_written_to() -> None:
    clip = np.full(20_000, -32_768, np.int16)
    clip.setflags(write=False)
    padded = pad_clip(clip, 2.0)
    assert (len(padded), padded.dtype) == (32_000, np.float32)
    assert (padded[:20_000] == -1).all()
    assert (padded[20_000:] == 0).all()
    assert len(pad_clip(np.zeros(32_000, np.int16), 2.0)) == 32_000
    assert {len(pad_clip(np.zeros(n, np.int16), 2.0)) for n in range(1, 480_001, 977)} == {
        32_000 * turns for turns in range(1, 16)
    }


def test_a_tokenizer_without_audio_is_not_this_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        Words(tmp_path / "tokenizer.json", "tiny")
    from tokenizers import Tokenizer, models

    Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match=r"has no token <\|audio\|>"):
        Words(tmp_path / "tokenizer.json", "tiny")
