"""The granite-nar engine beyond the laws of all engines: a model in a store, memory that runs out, types, devices."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch
from flaky_proxy import flaky_proxy
from models import babble, one_thread
from safetensors.torch import load_file, save_file
from servers import S3Endpoint, connect

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.granite_nar.engine import GraniteNar
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError, EngineDead, EngineError
from pipeline.records import ChunkAudio, Failure, Hypothesis

CHUNKS = [ChunkAudio(babble(n)) for n in (30_000, 5_000, 61_000, 1_600, 100_000)]
FILES = ("config.json", "model.safetensors", "tokenizer.json")
CONFIDENCE_TOLERANCE = 1e-4


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


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


@contextmanager
def loaded(folder: Path | str, **fields: Any) -> Iterator[GraniteNar]:
    engine = GraniteNar(config_of(folder, **fields))
    engine.load()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def heard(folder: Path) -> list[Hypothesis]:
    with loaded(folder) as engine:
        return engine.transcribe(CHUNKS)


def assert_same(found: list[Hypothesis], wanted: list[Hypothesis]) -> None:
    for here, there in zip(found, wanted, strict=True):
        assert (here.text, here.n_tokens, here.stop_reason) == (there.text, there.n_tokens, there.stop_reason)
        assert here.confidence == pytest.approx(there.confidence, rel=CONFIDENCE_TOLERANCE)
        assert [word.word for word in here.words] == [word.word for word in there.words]


def owners() -> int:
    return sum(thread.name == "granite-nar" for thread in threading.enumerate())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_needs_a_cuda_device_is_refused_without_one(folder: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"engine\.device=cuda, but torch sees no CUDA device"),
        loaded(folder, device="cuda"),
    ):
        pass
    with pytest.raises(ConfigError, match="'varlen' cannot run here: its kernel needs a CUDA device"):
        GraniteNar(config_of(folder, options={"attention": "varlen"})).load()
    assert owners() == 0


def test_a_model_in_a_store_is_described_by_its_header_and_hears_the_same(
    folder: Path, heard: list[Hypothesis], s3_endpoint: S3Endpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUARRY_CACHE", str(tmp_path / "cache"))
    store, path = connect(s3_endpoint), f"granite-nar/{uuid4().hex}"
    store.mkdirs("granite-nar", exist_ok=True)
    for name in FILES:
        store.pipe_file(f"{path}/{name}", (folder / name).read_bytes())
    weights_bytes = (folder / "model.safetensors").stat().st_size
    with flaky_proxy(s3_endpoint.endpoint_url) as proxy:
        options = s3_endpoint.storage_options() | {"endpoint_url": proxy.url}
        uri = f"s3://{path}"
        spec = GraniteNar.describe(config_of(uri, storage_options=options))
        assert (spec.model, len(spec.revision)) == (uri, 12)
        assert {file.name for file in (tmp_path / "cache").rglob("*.json")} == {"config.json"}
        assert not list((tmp_path / "cache").rglob("*.safetensors*"))
        assert proxy.sent_bytes < weights_bytes / 8
        with loaded(uri, storage_options=options) as engine:
            assert proxy.sent_bytes > weights_bytes
            sent_bytes = proxy.sent_bytes
            assert_same(engine.transcribe(CHUNKS), heard)
            assert proxy.sent_bytes == sent_bytes, "transcribe uses no network"
        with loaded(uri, storage_options=options):
            assert proxy.sent_bytes - sent_bytes < weights_bytes / 8, "the copy in the cache is used"


def test_weights_that_are_no_numbers_are_refused_by_name(copy: Path) -> None:
    """Attention over them can give text in which nothing shows."""
    name = "projector.qformer.layers.1.cross_attention.k_proj.weight"
    tensors = load_file(copy / "model.safetensors")
    tensors[name][3, 5] = float("nan")
    save_file(tensors, copy / "model.safetensors")
    with pytest.raises(ConfigError, match=f"{name} has numbers that are not finite in float32; download"), loaded(copy):
        pass
    assert owners() == 0


def test_a_type_in_which_the_model_overflows_is_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["encoder.input_linear.weight"] *= 2.0**15
    tensors["encoder.input_linear.bias"][::2] = 60_000  # as large as float16 goes, less a little
    save_file(tensors, copy / "model.safetensors")
    with loaded(copy, options={"dtype": "float32"}) as engine:
        assert any(one.text for one in engine.transcribe(CHUNKS))
    with pytest.raises(
        ConfigError, match=r"does not run on cpu: .* not finite in float16; set engine\.options\.dtype=float32\.$"
    ):
        GraniteNar(config_of(copy, options={"dtype": "float16"})).load()
    assert owners() == 0, "a model that was refused still holds its thread"


@pytest.mark.parametrize("where", ["draft", "final"])
def test_numbers_that_are_not_finite_are_an_error_and_never_text(folder: Path, where: str) -> None:
    """The blank wins with such a number: nothing is left of it in the tokens."""
    with loaded(folder) as engine:
        assert engine._model is not None
        weights = engine._model._weights
        poisoned = weights.encoder.draft.bias if where == "draft" else weights.editor.norm
        assert poisoned is not None
        poisoned[TINY.blank_id if where == "draft" else 0] = torch.inf
        says = r"not finite in float32; download the model again\.$"
        with pytest.raises(EngineError, match=says) as caught:
            engine.transcribe(CHUNKS)
        assert (caught.value.code, type(caught.value)) == ("engine_error", EngineError)
        outcomes, _ = run_batches(engine, CHUNKS, BatchConfig(), MemoryBudget())
    assert [outcome.code for outcome in outcomes if isinstance(outcome, Failure)] == ["engine_error"] * len(CHUNKS)


def test_a_device_that_dies_is_told_as_such_in_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose device is gone has to end; a ConfigError would blame the model."""
    from pipeline.engines.granite_nar.model import Model

    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(Model, "begin", fail)
    with pytest.raises(EngineDead, match="accelerator is gone"), loaded(folder):
        pass
    assert owners() == 0


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_runs_on_a_cpu(folder: Path, heard: list[Hypothesis], dtype: str) -> None:
    """Weights nobody trained sit on the edge between tokens: most of the text is the same, not all."""
    with loaded(folder, options={"dtype": dtype}) as engine:
        assert engine._model is not None
        assert engine._model.dtype == getattr(torch, dtype)
        found = engine.transcribe(CHUNKS)
    alike = [SequenceMatcher(None, one.text, other.text).ratio() for one, other in zip(found, heard, strict=True)]
    assert sum(alike) / len(alike) > 0.8
    for one, other in zip(found, heard, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=0.1)


def test_words_only_where_they_are_wished(folder: Path, heard: list[Hypothesis]) -> None:
    with loaded(folder, options={"word_confidence": False}) as engine:
        found = engine.transcribe(CHUNKS)
    assert [one.text for one in found] == [one.text for one in heard]
    assert all(other.words and not one.words for one, other in zip(found, heard, strict=True))


def test_the_language_of_a_row_is_written_with_it(folder: Path) -> None:
    rows = [ChunkAudio(CHUNKS[1].samples, "fr"), ChunkAudio(CHUNKS[1].samples), ChunkAudio(CHUNKS[1].samples[:100])]
    with loaded(folder, language="de-CH") as engine:
        found = engine.transcribe(rows)
    assert [one.language for one in found] == ["fr", "de", "de"]
    assert [one.stop_reason for one in found] == ["single_pass", "single_pass", "silence"]


@pytest.mark.slow
def test_compiled_kernels_give_the_same_on_a_cpu(folder: Path, heard: list[Hypothesis]) -> None:
    with loaded(folder, options={"compile": "on"}) as engine:
        assert_same(engine.transcribe(CHUNKS), heard)
        assert_same([engine.transcribe([chunk])[0] for chunk in CHUNKS], heard)


@pytest.mark.slow
def test_a_compiler_that_is_missing_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    code = f"""
from pipeline.config import EngineConfig
from pipeline.engines.granite_nar.engine import GraniteNar
from pipeline.errors import ConfigError
try:
    GraniteNar(EngineConfig.model_validate_json({config_of(folder, options={"compile": "on"}).model_dump_json()!r})).load()
except ConfigError as error:
    print(error)
"""
    nowhere = {"CXX": str(tmp_path / "no compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    env = os.environ | nowhere | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"The model {folder} does not run on cpu: The model failed: ")
    assert "compiler" in done.stdout


def skip_without_cuda() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")


@pytest.mark.gpu
@pytest.mark.parametrize("attention", ["sdpa", "flex"])
@pytest.mark.parametrize("compiled", ["off", "on"])
def test_a_cuda_device_hears_what_a_cpu_hears(
    folder: Path, heard: list[Hypothesis], attention: str, compiled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, products in full precision; two callers, so that batches overlap on the device."""
    skip_without_cuda()
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    options = {"dtype": "float32", "attention": attention, "compile": compiled}
    with loaded(folder, device="cuda", options=options) as engine, ThreadPoolExecutor(2) as threads:
        for found in threads.map(engine.transcribe, [CHUNKS] * 8):
            assert_same(found, heard)
        for found in threads.map(engine.transcribe, [[chunk] for chunk in CHUNKS] * 4):
            assert found[0].text in {one.text for one in heard}


@pytest.mark.gpu
@pytest.mark.parametrize("compiled", ["auto", "off"])
def test_a_cuda_device_chooses_for_itself(folder: Path, heard: list[Hypothesis], compiled: str) -> None:
    skip_without_cuda()
    with loaded(folder, device="auto", options={"compile": compiled}) as engine, ThreadPoolExecutor(2) as threads:
        assert engine._model is not None
        assert engine._model.device.type == "cuda"
        assert engine._model.dtype in (torch.bfloat16, torch.float16)
        for found in threads.map(engine.transcribe, [CHUNKS] * 8):
            alike = [
                SequenceMatcher(None, one.text, other.text).ratio() for one, other in zip(found, heard, strict=True)
            ]
            assert sum(alike) / len(alike) > 0.7
