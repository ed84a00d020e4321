"""granite-speech-3.3 with its adapter: merged, against peft's own computation beside the model; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copy, copytree
from typing import Any

import pytest
import torch
from ctc_checkpoints import murmur
from granite_checkpoints import edit_json, write_granite
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GraniteSpeechForConditionalGeneration

from pipeline.config import EngineConfig
from pipeline.engines.base import describe_engine
from pipeline.engines.granite.engine import Granite
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.prompts import SYSTEM_33, transcription, translated_from, translation
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
CHUNKS = [ChunkAudio(murmur(size), "en") for size in (16_000, 40_037)]
MOST_TOKENS = 20


def write_adapter(folder: Path, made: Path, **settings: Any) -> None:
    """An adapter as peft writes it, beside a model of a folder."""
    from peft import LoraConfig

    model = GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        # Not at zero, as where training begins: the adapter has to change the text.
        model.add_adapter(LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings))
    model.save_pretrained(str(made))
    for name in (WEIGHTS, SETTINGS):
        copy(made / name, folder / name)
    edit_json(folder / "config.json", has_lora_adapter=True)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("granite") / "granite-speech-3.3-2b"
    write_granite(folder, roles=True)
    write_adapter(folder, tmp_path_factory.mktemp("adapter"), lora_alpha=8)
    return folder


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Path) -> Path:
    return copytree(checkpoint, tmp_path / checkpoint.name)


def config(folder: Path, task: str = "transcribe", language: str | None = None, **options: Any) -> EngineConfig:
    return EngineConfig.model_validate(
        {"name": "granite", "model": str(folder), "task": task, "language": language, "threads": 1, "options": options}
    )


def texts(folder: Path, task: str = "transcribe", **options: Any) -> list[str]:
    engine = Granite(config(folder, task, max_new_tokens=MOST_TOKENS, **options))
    engine.load()
    found = [one.text for one in engine.transcribe(CHUNKS)]
    engine.close()
    return found


@torch.inference_mode()
def generated(folder: Path, instruction: str) -> list[str]:
    """The texts of transformers with peft, which computes the adapter beside the model, through the chat template."""
    model, spare = (
        GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval() for _ in range(2)
    )
    assert model.active_adapters() == ["default"]
    tokenizer, ear = AutoTokenizer.from_pretrained(folder, local_files_only=True), Ear(spare)
    found = []
    for chunk in CHUNKS:
        features = ear.features(chunk.samples)
        positions = -(-len(features) // 15) * 3
        chat = [
            {"role": "system", "content": SYSTEM_33},
            {"role": "user", "content": "<|audio|>" * positions + instruction},
        ]
        inputs = tokenizer(
            tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True), return_tensors="pt"
        )
        ids = model.generate(
            **{name: inputs[name] for name in ("input_ids", "attention_mask")},
            input_features=features[None],
            input_features_mask=torch.ones(1, positions, dtype=torch.bool),
            max_new_tokens=MOST_TOKENS,
            do_sample=False,
            num_beams=1,
        )[0, inputs["input_ids"].shape[1] :]
        found.append(str(tokenizer.decode(ids, skip_special_tokens=True)).strip())
    return found


def test_a_merged_adapter_says_what_peft_says(folder: Path) -> None:
    raw = "can you transcribe the speech into a written format?"
    assert texts(folder) == generated(folder, raw)
    assert texts(folder, "translate", target_language="zh") == generated(folder, "translate the speech to Chinese")
    merged = texts(folder)
    for name in (WEIGHTS, SETTINGS):
        (folder / name).unlink()
    edit_json(folder / "config.json", has_lora_adapter=False)
    assert texts(folder) != merged  # without it the same model writes something else


@pytest.mark.parametrize("scale", [{"lora_alpha": 3}, {"lora_alpha": 6, "use_rslora": True}])
def test_the_scale_is_pefts(tmp_path: Path, scale: dict[str, Any]) -> None:
    folder = tmp_path / "granite-speech-3.3-8b"
    write_granite(folder, roles=True)
    write_adapter(folder, tmp_path / "made", **scale)
    assert texts(folder) == generated(folder, "can you transcribe the speech into a written format?")


def test_names_of_older_files_are_known(folder: Path) -> None:
    """Before transformers moved the language model into `model`, its tensors were called otherwise."""
    wanted = texts(folder)
    tensors = load_file(folder / WEIGHTS)
    older = {
        name.replace("base_model.model.model.language_model.", "base_model.model.language_model.model."): tensor
        for name, tensor in tensors.items()
    }
    assert not set(older) & set(tensors)
    save_file(older, folder / WEIGHTS)
    assert texts(folder) == wanted


def test_what_33_serves_and_refuses(folder: Path) -> None:
    spec = describe_engine(config(folder))
    assert spec.languages == {"en", "fr", "de", "es", "pt"}
    assert spec.features == {"confidence"}
    assert translated_from("en", "3.3") == {"fr", "de", "es", "pt"}
    assert {target for target in ("ja", "zh", "it", "pt") if translated_from(target, "3.3") == {"en"}} == {
        *("ja", "zh", "it", "pt")
    }
    assert transcription("3.3") == "can you transcribe the speech into a written format?"
    assert translation("de", version="3.3") == "translate the speech to German"
    for options, complaint in (
        ({"punctuation": True}, "writes no punctuation"),
        ({"keywords": ["Hale"]}, "takes no keywords"),
        ({"speculate": True}, "Nothing is published of drafts"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            describe_engine(config(folder, **options))
    with pytest.raises(ConfigError, match="cannot be 'ja'"):
        describe_engine(config(folder, language="ja"))


def test_another_adapter_is_another_revision(folder: Path) -> None:
    before = describe_engine(config(folder)).revision
    save_file({name: tensor * 2 for name, tensor in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    assert describe_engine(config(folder)).revision != before


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"peft_type": "ADALORA"}, "describes no LoRA"),
        ({"r": 0}, "describes no LoRA"),
        ({"use_dora": True}, "sets use_dora"),
        ({"rank_pattern": {"q_proj": 8}}, "sets rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"from_the_future": 1}, "sets from_the_future"),
        ({"bias": "all"}, "has bias='all'"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights='pissa'"),
        ({"target_modules": None}, "names no target_modules"),
    ],
)
def test_adapters_that_no_merge_is_right_for_are_refused(
    folder: Path, settings: dict[str, Any], complaint: str
) -> None:
    path = folder / SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    with pytest.raises(ConfigError, match=complaint):
        describe_engine(config(folder))


@pytest.mark.parametrize("name", [WEIGHTS, SETTINGS])
def test_a_missing_adapter_is_told(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"lacks {name}: a LoRA adapter belongs to it"):
        describe_engine(config(folder))


def test_adapter_weights_that_do_not_fit_are_told(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    first = next(name for name in tensors if "q_proj.lora_A" in name)
    for wrong, complaint in (
        ({**tensors, "more.weight": torch.zeros(1)}, "has the tensor more.weight"),
        ({**tensors, first: torch.zeros(5, 32)}, "does not fit"),
        ({name: tensor for name, tensor in tensors.items() if name != first}, "does not fit"),
        ({name: tensor for name, tensor in tensors.items() if "q_proj" not in name}, "disagree about q_proj"),
        ({name.replace("layers.0", "layers.9"): tensor for name, tensor in tensors.items()}, "which the model has not"),
    ):
        save_file(wrong, folder / WEIGHTS)
        with pytest.raises(ConfigError, match=complaint):
            texts(folder)
    (folder / WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="cannot be read"):
        texts(folder)
