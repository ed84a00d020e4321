"""The ctc engine beyond the laws of all engines: it says what transformers says, and when and how surely."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctc_checkpoints import murmur, write_parakeet, write_turboctc, write_wav2vec2
from safetensors.torch import load_file, save_file

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.ctc.engine import Ctc
from pipeline.engines.ctc.features import GraniteFeatures
from pipeline.engines.ctc.recognizer import Recognizer
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError, EngineDead, EngineError, EngineOutOfMemory
from pipeline.records import ChunkAudio, Failure, Hypothesis

WRITERS: dict[str, Callable[[Path], None]] = {
    "turboctc": write_turboctc,
    "parakeet": write_parakeet,
    "wav2vec2": write_wav2vec2,
    "wav2vec2 by length": partial(write_wav2vec2, norm="group", spaces=20.0),
}
CHUNKS = [ChunkAudio(murmur(n)) for n in (48_000, 20_000, 70_000, 9_600, 20_000)]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Threads that wait for each other over tiny products are slow, and on a busy machine slower still."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=WRITERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("ctc")
    WRITERS[request.param](found)
    return found


@pytest.fixture(scope="module")
def turboctc(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("turboctc")
    write_turboctc(found)
    return found


@pytest.fixture
def copy(turboctc: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    return Path(shutil.copytree(turboctc, tmp_path / "copy"))


@contextmanager
def loaded(folder: Path, **fields: Any) -> Iterator[Ctc]:
    options = {"languages": ["en"]} | fields.pop("options", {})
    config = EngineConfig(
        **{"name": "ctc", "model": str(folder), "threads": 1, "device": "cpu", "options": options} | fields
    )
    engine = Ctc(config)
    engine.load()
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(scope="module")
def heard(folder: Path) -> list[Hypothesis]:
    with loaded(folder) as engine:
        return engine.transcribe(CHUNKS)


@pytest.fixture(scope="module")
def logits(folder: Path) -> list[torch.Tensor]:
    """What transformers computes for every clip alone [T, V]: the feature extractor that comes with it, no padding."""
    from transformers import AutoFeatureExtractor, AutoModelForCTC

    model = AutoModelForCTC.from_pretrained(folder, local_files_only=True).eval()
    if model.config.model_type == "granite_speech5_ctc":  # its extractor needs torchaudio; ours is held to it elsewhere
        inputs = [GraniteFeatures(torch.device("cpu"))([chunk.samples])[0] for chunk in CHUNKS]
    else:
        extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
        floats = [chunk.samples.astype(np.float32) / 32768 for chunk in CHUNKS]
        inputs = [extractor(clip, sampling_rate=16_000, return_tensors="pt") for clip in floats]
    with torch.inference_mode():
        found = [model(**one).logits[0] for one in inputs]
        if hasattr(model, "generate"):
            generated = [model.generate(**one)[0].tolist() for one in inputs]
            assert generated == [one.argmax(-1).tolist() for one in found]
    return found


def test_text_is_what_transformers_decodes_alone(
    folder: Path, heard: list[Hypothesis], logits: list[torch.Tensor]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for one, found in zip(logits, heard, strict=True):
        # With special tokens, as letters are decoded: else it would drop the blanks before it groups.
        assert found.text == tokenizer.batch_decode([one.argmax(-1).tolist()])[0].strip()
        assert found.text
        assert (found.stop_reason, found.segments) == ("single_pass", ())


def test_confidences_are_the_highest_posteriors_of_the_tokens(
    folder: Path, heard: list[Hypothesis], logits: list[torch.Tensor]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    for one, found in zip(logits, heard, strict=True):
        best, ids = one.softmax(-1).max(-1)
        frames = groupby(zip(ids.tolist(), best.tolist(), strict=True), key=lambda frame: frame[0])
        tokens = [max(p for _, p in run) for id_, run in frames if id_ != config["pad_token_id"]]
        assert found.n_tokens == len(tokens)
        assert found.confidence == pytest.approx(np.mean(tokens), rel=1e-4)
        assert all(0 < word.confidence <= 1 for word in found.words if word.confidence is not None)


def test_words_make_up_the_text_in_order_inside_the_chunk(heard: list[Hypothesis]) -> None:
    assert max(len(found.words) for found in heard) > 3
    for chunk, found in zip(CHUNKS, heard, strict=True):
        assert [word.word for word in found.words] == found.text.split()
        times = [time for word in found.words for time in (word.start_s, word.end_s)]
        assert None not in times
        assert times == sorted(times)  # type: ignore[type-var]
        assert 0 <= times[0] <= times[-1] <= chunk.audio_s  # type: ignore[operator]
        assert found.warnings == ("word_times_approximate",)


@pytest.mark.parametrize("folder", ["wav2vec2"], indirect=True)
def test_word_times_are_the_offsets_that_transformers_gives(
    folder: Path, heard: list[Hypothesis], logits: list[torch.Tensor]
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    for one, found in zip(logits, heard, strict=True):
        offsets = tokenizer.decode(one.argmax(-1).tolist(), output_word_offsets=True).word_offsets
        assert [(word.word, word.start_s, word.end_s) for word in found.words] == [
            (word["word"], round(word["start_offset"] * 0.02, 3), round(word["end_offset"] * 0.02, 3))
            for word in offsets
        ]


def test_without_word_times_there_are_no_words_and_nothing_to_warn_of(folder: Path, heard: list[Hypothesis]) -> None:
    with loaded(folder, options={"word_times": False}) as engine:
        found = engine.transcribe(CHUNKS)
    assert [(one.text, one.words, one.warnings) for one in found] == [(one.text, (), ()) for one in heard]


def test_batches_of_the_runner_change_nothing(folder: Path, heard: list[Hypothesis]) -> None:
    with loaded(folder) as engine:
        found, stats = run_batches(engine, CHUNKS, BatchConfig(max_audio_s=6), MemoryBudget())
        for one, other in zip(found, heard, strict=True):
            assert isinstance(one, Hypothesis)
            assert (one.text, one.n_tokens) == (other.text, other.n_tokens)
            assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
        assert stats.batches > 1
        assert (stats.padded_s == pytest.approx(stats.audio_s)) == (engine.spec.padding == "none")


@pytest.mark.parametrize("options", [{"attention": "eager"}, {"attention": "sdpa"}])
def test_every_attention_gives_the_same_text(folder: Path, heard: list[Hypothesis], options: dict[str, str]) -> None:
    with loaded(folder, options=options) as engine:
        assert [one.text for one in engine.transcribe(CHUNKS)] == [one.text for one in heard]


def test_half_precision_runs_on_a_cpu(folder: Path, heard: list[Hypothesis]) -> None:
    """Weights nobody trained sit on the edge between tokens: some of the text changes."""
    with loaded(folder, options={"dtype": "bfloat16"}) as engine:
        found = engine.transcribe(CHUNKS)
    differences = [
        abs((one.confidence or 0) - (other.confidence or 0)) for one, other in zip(found, heard, strict=True)
    ]
    assert np.mean(differences) < 0.15


def test_the_language_of_a_row_is_written_with_it(turboctc: Path) -> None:
    rows = [ChunkAudio(CHUNKS[1].samples, "fr"), CHUNKS[1], ChunkAudio(CHUNKS[1].samples[:100])]
    with loaded(turboctc) as engine:
        assert [one.language for one in engine.transcribe(rows)] == ["fr", "en", "en"]
    with loaded(turboctc, options={"languages": ["de", "en"]}) as engine:
        assert [one.language for one in engine.transcribe(rows)] == ["fr", None, None]
    with loaded(turboctc, options={"languages": ["de", "en"]}, language="de-CH") as engine:
        found = engine.transcribe(rows)
    assert [one.language for one in found] == ["fr", "de", "de"]
    assert [one.stop_reason for one in found] == ["single_pass", "single_pass", "silence"]


def test_weights_without_a_head_are_refused_by_name(tmp_path: Path) -> None:
    """transformers would go on with a head of random numbers."""
    write_wav2vec2(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["lm_head.weight"]
    tensors.pop("wav2vec2.masked_spec_embed")
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"lack lm_head\.weight; take a model that was fine-tuned"), loaded(tmp_path):
        pass


def test_broken_files_are_a_sentence(copy: Path) -> None:
    with (copy / "model.safetensors").open("r+b") as file:
        file.truncate(5000)
    with pytest.raises(ConfigError, match=r"does not load \(.*\); check its files"), loaded(copy):
        pass
    (copy / "tokenizer.json").write_text("{}")
    shutil.copy(copy / "config.json", copy / "model.safetensors")
    with pytest.raises(ConfigError, match="does not load"), loaded(copy):
        pass


def test_a_tokenizer_of_another_model_is_refused(turboctc: Path, tmp_path: Path) -> None:
    write_turboctc(tmp_path, vocabulary=80)
    shutil.copy(turboctc / "tokenizer.json", tmp_path / "tokenizer.json")
    with (
        pytest.raises(ConfigError, match=r"has 86 tokens, the model 80; take both from one revision"),
        loaded(tmp_path),
    ):
        pass
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"tokenizer in .* cannot be read"), loaded(tmp_path):
        pass


def test_special_tokens_behind_the_labels_are_no_other_model(tmp_path: Path) -> None:
    """As in many fine-tuned Wav2Vec2: the tokenizer adds <s> and </s>, the model has no labels for them."""
    from transformers import AutoTokenizer

    write_wav2vec2(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    with loaded(tmp_path) as engine:
        wanted = engine.transcribe(CHUNKS)
    for bare, token in enumerate(("<s>", "</s>")):
        vocabulary[f"?{bare}"] = vocabulary.pop(token)
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"added_tokens_decoder": {}}))
    assert len(AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)) == len(vocabulary) + 2
    with loaded(tmp_path) as engine:
        assert engine.transcribe(CHUNKS) == wanted


def test_numbers_that_are_not_finite_are_an_error_and_never_text(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    tensors["encoder.input_linear.bias"][0] = torch.nan
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"does not run on cpu: .* not finite in float32; download"), loaded(copy):
        pass


@pytest.mark.parametrize(
    ("message", "error", "says"),
    [
        ("[enforce fail at alloc_cpu.cpp:124] can't allocate memory: 99 bytes", EngineOutOfMemory, "did not fit"),
        ("CUDA error: unspecified launch failure", EngineDead, "accelerator is gone"),
        ("mat1 and mat2 shapes cannot be multiplied", EngineError, "The model failed: mat1"),
    ],
)
def test_errors_of_the_device_are_told_apart(
    turboctc: Path, monkeypatch: pytest.MonkeyPatch, message: str, error: type[Exception], says: str
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(message)

    with loaded(turboctc) as engine:
        monkeypatch.setattr(Recognizer, "_pass", fail)
        with pytest.raises(error, match=says) as caught:
            engine.transcribe(CHUNKS)
        assert type(caught.value) is error
        if error is EngineOutOfMemory:
            outcomes, _ = run_batches(engine, CHUNKS, BatchConfig(), MemoryBudget())
            assert [outcome.code for outcome in outcomes if isinstance(outcome, Failure)] == ["engine_oom"] * len(
                CHUNKS
            )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_is_refused_where_there_is_none(turboctc: Path) -> None:
    with pytest.raises(ConfigError, match="torch sees no CUDA device here"), loaded(turboctc, device="cuda"):
        pass
