"""Describing a granite-nar model: from its small files and the header of its weights, or one sentence of refusal."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from safetensors.torch import load_file, save_file
from servers import S3Endpoint, connect

from pipeline.config import EngineConfig
from pipeline.engines.base import describe_engine
from pipeline.engines.granite_nar.checkpoint import expected_tensors, is_counter
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.config_json import config_fields
from pipeline.engines.granite_nar.engine import GraniteNar
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint
from pipeline.errors import ConfigError

FILES = ("config.json", "model.safetensors", "tokenizer.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("granite-nar")
    write_checkpoint(found, TINY, layout="B", seed=0)
    return found


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def config_of(folder: Path | str, **fields: Any) -> EngineConfig:
    settings: dict[str, Any] = {"name": "granite-nar", "model": str(folder), "threads": 1, "device": "cpu"}
    return EngineConfig(**settings | fields)


def write_full_size(folder: Path, without: str) -> int:
    """The published sizes with all numbers a hole in the file, and one tensor missing; returns the file's size."""
    entries, at = {}, 0
    for name, shape in expected_tensors(ModelConfig()).items():
        if name != without:
            dtype, width = ("I64", 8) if is_counter(name) else ("BF16", 2)
            size = math.prod(shape) * width
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size]}
            at += size
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + at)
    (folder / "config.json").write_text(json.dumps(config_fields(ModelConfig(), "B")), "utf-8")
    (folder / "tokenizer.json").write_text("{}", "utf-8")
    return at


def test_a_wrong_tensor_is_named_before_any_weights_are_read(tmp_path: Path) -> None:
    size_bytes = write_full_size(tmp_path, without="encoder.layers.15.post_norm.bias")
    assert size_bytes > 4e9
    started_s = time.process_time()
    with pytest.raises(ConfigError, match=r"lacks tensor encoder\.layers\.15\.post_norm\.bias"):
        GraniteNar.describe(config_of(tmp_path))
    assert time.process_time() - started_s < 1.0, "reading the weights takes longer"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "/no/such/folder"}, r"There is no folder '/no/such/folder'; engine\.model can be"),
        ({"model": "hf://ibm-granite/granite-speech-4.1-2b-nar@main"}, r"names no commit; write hf://owner/name@ and"),
        ({"model": "hf://ibm-granite/granite-speech-4.1-2b-nar"}, "names no commit"),
        ({"device": "tpu"}, r"no device 'tpu'; engine\.device can be auto, cpu or cuda\.$"),
        ({"options": {"dtype": "int8"}}, r"The option engine\.options\.dtype cannot be 'int8': Input should be 'auto'"),
        ({"options": {"attention": "eager"}}, r"engine\.options\.attention cannot be 'eager'"),
        ({"options": {"compile": "yes"}}, r"engine\.options\.compile cannot be 'yes'"),
        (
            {"options": {"beam_size": 5}},
            "The granite-nar engine has no option 'beam_size'; engine.options can hold: dt",
        ),
        ({"task": "translate"}, r"engine\.task cannot be 'translate'"),
        ({"language": "ja"}, r"engine\.language cannot be 'ja'"),
    ],
)
def test_what_cannot_be_served_is_refused_in_a_sentence(folder: Path, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        describe_engine(config_of(folder, **fields) if "model" not in fields else config_of(fields["model"]))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named(copy: Path, missing: str) -> None:
    (copy / missing).unlink()
    with pytest.raises(
        ConfigError, match=rf"lacks {missing}; take the folder of ibm-granite/granite-speech-4\.1-2b-nar"
    ):
        GraniteNar.describe(config_of(copy))


@pytest.mark.parametrize("content", ["", "[]", "[" * 100_000, '{"model_type": "whisper"}', '{"model_type": "nle"}'])
def test_a_config_of_another_model_is_refused(copy: Path, content: str) -> None:
    (copy / "config.json").write_text(content, "utf-8")
    with pytest.raises(ConfigError, match=r"config\.json") as caught:
        GraniteNar.describe(config_of(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_beyond_all_measure_is_not_opened(copy: Path, name: str) -> None:
    os.truncate(copy / name, 2**33)  # a hole: it has the size and takes no room
    with pytest.raises(ConfigError, match=rf"The {name} of .* has 8589934592 bytes, which no published one comes near"):
        GraniteNar.describe(config_of(copy))


def test_a_model_with_too_few_positions_for_the_longest_chunk_is_refused(copy: Path) -> None:
    """30 s are 300 audio embeddings; 375 labels of a draft without a blank take 751 slots."""
    settings = json.loads((copy / "config.json").read_text("utf-8"))
    for positions in (1051, 1050):
        settings["text_config"]["max_position_embeddings"] = positions
        (copy / "config.json").write_text(json.dumps(settings), "utf-8")
        if positions == 1051:
            GraniteNar.describe(config_of(copy))
    with pytest.raises(ConfigError, match="has 1050 positions, and a chunk of 30 s may need 1051; take another model"):
        GraniteNar.describe(config_of(copy))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("drop", "lacks tensor projector.query "),
        ("add", "a tensor more that this model does not have"),
        ("reshape", "Tensor projector.query of the checkpoint has shape [3, 64]"),
        ("truncate", "model.safetensors is not a complete safetensors file"),
    ],
)
def test_describe_and_load_refuse_the_same(copy: Path, change: str, says: str) -> None:
    """A model that changes after `describe` has seen its header is refused by `load`, in the same words."""
    engine = GraniteNar(config_of(copy))
    path = copy / "model.safetensors"
    tensors = load_file(path)
    query = tensors.pop("projector.query")
    kept = {
        "drop": {},
        "add": {"projector.query": query, "more": query.clone()},
        "reshape": {"projector.query": query[0]},
        "truncate": {"projector.query": query},
    }
    save_file(tensors | kept[change], path)
    if change == "truncate":
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ConfigError) as described:
        GraniteNar.describe(config_of(copy))
    with pytest.raises(ConfigError) as refused:
        engine.load()
    assert says in str(described.value)
    assert str(refused.value) == str(described.value)


def test_a_tokenizer_of_another_model_is_refused(copy: Path) -> None:
    tokenizer = json.loads((copy / "tokenizer.json").read_text("utf-8"))
    tokenizer["model"]["vocab"]["one more"] = TINY.editor.vocabulary
    (copy / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
    with pytest.raises(ConfigError, match="has 481 tokens, the model 480; take both from one revision"):
        GraniteNar(config_of(copy)).load()


def test_a_wrong_model_in_a_store_is_refused_by_its_header(
    copy: Path, s3_endpoint: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUARRY_CACHE", str(tmp_path / "cache"))
    tensors = load_file(copy / "model.safetensors")
    del tensors["encoder.out.bias"]
    save_file(tensors, copy / "model.safetensors")
    store, path = connect(s3_endpoint), f"granite-nar/{uuid4().hex}"
    store.mkdirs("granite-nar", exist_ok=True)
    for name in FILES:
        store.pipe_file(f"{path}/{name}", (copy / name).read_bytes())
    with pytest.raises(ConfigError, match=r"lacks tensor encoder\.out\.bias"):
        GraniteNar.describe(config_of(f"s3://{path}", storage_options=s3_endpoint.storage_options()))
    assert not list((tmp_path / "cache").rglob("*.safetensors*"))
