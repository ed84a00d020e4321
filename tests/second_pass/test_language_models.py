"""Which models are taken and which refused, from their JSON files alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from causal_models import write_causal
from granite_checkpoints import edit_json
from test_generator import load

from pipeline.config import SecondPassConfig
from pipeline.errors import ConfigError
from pipeline.second_pass.checkpoint import read_language_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_causal(tmp_path / "model")
    return tmp_path / "model"


def read(folder: Path, **settings: object) -> object:
    return read_language_model(SecondPassConfig.model_validate({"model": str(folder), **settings}))[1]


def test_describes_from_json_without_heavy_libraries(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"not read")
    script = (
        "import sys\nfrom pipeline.config import SecondPassConfig\n"
        "from pipeline.second_pass.checkpoint import read_language_model\n"
        f"print(read_language_model(SecondPassConfig(model={str(folder)!r}))[1])\n"
        "assert not {'torch', 'transformers', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "markup='granite'" in done.stdout
    assert "context=2048" in done.stdout


def test_weights_in_several_files_are_found(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "model-00002-of-00002.safetensors").write_bytes(b"x")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    found = read_language_model(SecondPassConfig(model=str(folder)))[1]
    assert set(names.values()) <= set(found.files)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="lacks model-00002-of-00002"):
        read(folder)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}}, "code of its own"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "quantised"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "not a causal language model"),
        ({"architectures": None}, "not a causal language model"),
        ({"architectures": "GraniteForCausalLM"}, "not a causal language model"),
    ],
)
def test_models_of_other_kinds_are_refused(folder: Path, fields: dict[str, object], wrong: str) -> None:
    edit_json(folder / "config.json", **fields)
    with pytest.raises(ConfigError, match=wrong):
        read(folder)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_missing_files_are_named(folder: Path, name: str) -> None:
    (folder / name).rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=f"lacks {name}"):
        read(folder)


def test_adapters_are_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match="adapter"):
        read(folder)


def test_what_is_wrong_is_said_in_the_words_of_this_section(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"second_pass\.model can be a folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"set second_pass\.model"):
        read_language_model(SecondPassConfig())


def test_damaged_files_do_not_load(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="does not load"):
        load(folder)
    write_causal(folder)
    edit_json(folder / "config.json", model_type="unheard_of", architectures=["UnheardForCausalLM"])
    with pytest.raises(ConfigError, match="does not load"):
        load(folder)
    write_causal(folder)
    edit_json(folder / "config.json", num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"lack model\.layers\.2"):
        load(folder)
