"""Drafts that come from the weights of a checkpoint: heard, spelled, tried or not, checked, counted.

A random head drafts nonsense, which its language model never agrees with. So heads are built here that say what the language
model writes for a few clips: a linear map that sends those clips' frames to the wanted labels, solved for in one step. The frames
are those of transformers' own encoder and the pooling is written anew: a wrong pooling or label would not be agreed with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ctc_checkpoints import murmur
from granite_checkpoints import LETTERS, read_tokenizer, write_granite
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import GraniteSpeechForConditionalGeneration

from pipeline.config import EngineConfig
from pipeline.engines.base import describe_engine
from pipeline.engines.granite.engine import Granite
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.speculation import spell
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio, Hypothesis

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

SIZES = {"hidden_dim": 128, "output_dim": 128}
MOST_TOKENS = 10
PLANTED = [24_000, 20_000, 17_000]
CLIPS = [ChunkAudio(murmur(size)) for size in (*PLANTED, 8_000, 40_037, 99_999)]
Versions = pytest.mark.parametrize("version", ["4.0", "4.1"])


def loaded(folder: Path, version: str, **options: Any) -> Granite:
    options = {"version": version, "max_new_tokens": MOST_TOKENS, **options}
    engine = Granite(EngineConfig(name="granite", model=str(folder), threads=1, options=options))
    engine.load()
    return engine


def heard(folder: Path, version: str, chunks: Sequence[ChunkAudio], **options: Any) -> list[Hypothesis]:
    engine = loaded(folder, version, **options)
    found = engine.transcribe(chunks)
    engine.close()
    return found


def plain(hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Without what drafts and batches may change: who foretold it, and the last digits of confidences."""
    return [replace(one, n_foretold=None, confidence=None) for one in hypotheses]


def frames_of(folder: Path, pooled: bool) -> list[Tensor]:
    """What a draft's head sees of each planted clip, from transformers' own encoder, one clip at a time."""
    model, spare = (
        GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval() for _ in range(2)
    )
    ear, encoder = Ear(spare), model.model.encoder
    middle: list[Tensor] = []
    encoder.layers[encoder.config.num_layers // 2 - 1].register_forward_hook(lambda *given: middle.append(given[2]))
    found = []
    for size in PLANTED:
        last = encoder(ear.features(murmur(size))[None]).last_hidden_state[0]
        if not pooled:
            found.append(last)
            continue
        weight = 1 - encoder.out(middle[-1][0]).softmax(-1)[:, 0]
        windows = zip(last.split(4), weight.split(4), strict=True)
        found.append(torch.stack([(share / share.sum()) @ frames for frames, share in windows]))
    return found


def fitted_head(frames: Sequence[Tensor], labels: Sequence[Sequence[int]], rows: int) -> tuple[Tensor, Tensor]:
    """Weight and bias that give each clip its labels, in order, blanks between equal ones and behind."""
    wanted = []
    for states, ids in zip(frames, labels, strict=True):
        spaced = [label for at, one in enumerate(ids) for label in ([0] * (at > 0 and ids[at - 1] == one) + [one])]
        assert len(spaced) <= len(states)
        wanted += spaced + [0] * (len(states) - len(spaced))
    states = torch.cat(list(frames)).double()
    padded = torch.cat([states, torch.ones(len(states), 1)], 1)
    targets = torch.nn.functional.one_hot(torch.tensor(wanted), rows).double() * 30
    solved = torch.linalg.lstsq(padded, targets, driver="gelsd").solution.float()
    return solved[:-1].T.contiguous(), solved[-1].contiguous()


@torch.inference_mode()
def plant(folder: Path, version: str, texts: Sequence[str]) -> None:
    """Rewrite the checkpoint so that the encoder drafts these texts for the planted clips."""
    rows = PLANTED if version == "4.1" else PLANTED[:1]  # as many frames as a head of 128 channels can tell apart
    frames = frames_of(folder, version == "4.1")[: len(rows)]
    if version == "4.1":
        tokenizer = read_tokenizer(folder)
        labels = [[token + 1 for token in tokenizer.encode(text).ids] for text in texts]
        weight, bias = fitted_head(frames, labels, tokenizer.get_vocab_size() + 1)
        save_file({"weight": weight, "bias": bias}, folder / "out_llm.safetensors")
        return
    weight, bias = fitted_head(frames, [[ord(letter) for letter in texts[0]]], SIZES["output_dim"])
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"encoder.out.weight": weight, "encoder.out.bias": bias}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def written(folder: Path, version: str) -> list[Hypothesis]:
    """A checkpoint without drafts, and what it writes."""
    write_granite(folder, encoder=SIZES, letters=LETTERS)
    tensors = load_file(folder / "model.safetensors")
    # The head of characters feeds back into the encoder. Without that way back, another head changes no frame.
    tensors["encoder.out_mid.weight"] = torch.zeros_like(tensors["encoder.out_mid.weight"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return heard(folder, version, CLIPS)


@pytest.fixture(scope="module", params=["4.0", "4.1"])
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[Any]]:
    folder = tmp_path_factory.mktemp("granite")
    greedy = written(folder, request.param)
    plant(folder, request.param, [one.text for one in greedy[: len(PLANTED)]])
    return folder, request.param, greedy


def test_drafts_from_the_encoder_change_no_text(planted: tuple[Path, str, list[Hypothesis]]) -> None:
    folder, version, greedy = planted
    right = len(PLANTED) if version == "4.1" else 1
    found = heard(folder, version, CLIPS, speculate=True, draft_confidence=0)
    assert plain(found) == plain(greedy)
    assert len({one.text for one in greedy}) > 2
    for one in found[:right]:  # accepted; the last token of a budget is the model's own
        assert one.n_foretold == (one.n_tokens or 0) - (one.stop_reason == "length")
    others = [(one.n_foretold, one.n_tokens) for one in found[right:]]
    assert [
        1 for foretold, tokens in others if foretold is not None and foretold < tokens - 1
    ]  # tried, written without
    for one, wanted in zip(found, greedy, strict=True):
        assert one.confidence == pytest.approx(wanted.confidence, rel=1e-4)


def test_batch_mates_change_nothing_of_a_draft(planted: tuple[Path, str, list[Hypothesis]]) -> None:
    folder, version, _ = planted
    engine = loaded(folder, version, speculate=True, draft_confidence=0, max_positions=1024)
    together = engine.transcribe(CLIPS)
    assert plain(engine.transcribe(CLIPS[::-1])[::-1]) == plain(together)
    for clip, one in zip(CLIPS, together, strict=True):
        (alone,) = engine.transcribe([clip])
        assert replace(alone, confidence=None) == replace(one, confidence=None)
    engine.close()


def test_an_unsure_draft_is_not_tried(planted: tuple[Path, str, list[Hypothesis]]) -> None:
    folder, version, greedy = planted
    found = heard(folder, version, CLIPS, speculate=True, draft_confidence=0.99)
    assert plain(found) == plain(greedy)
    assert found[0].n_foretold == found[0].n_tokens  # the planted one is sure
    assert None in [one.n_foretold for one in found]
    assert {one.n_foretold for one in heard(folder, version, CLIPS[:1])} == {None}


@Versions
def test_a_kept_draft_is_flagged(tmp_path: Path, version: str) -> None:
    """Drafts that differ from what the model writes, and are kept because they are told to be likely enough."""
    greedy = written(tmp_path, version)
    plant(tmp_path, version, [one.text[:-1] + "b" * (one.text[-1] != "b") for one in greedy[: len(PLANTED)]])
    (kept,) = heard(tmp_path, version, CLIPS[:1], speculate=True, keep_draft_token=1e-12, max_new_tokens=20)
    assert kept.is_draft
    assert kept.text != greedy[0].text
    assert kept.warnings == ()
    assert kept.n_foretold == kept.n_tokens
    (checked,) = heard(tmp_path, version, CLIPS[:1], speculate=True)
    assert plain([checked]) == plain(greedy[:1])
    assert 0 < checked.n_foretold < checked.n_tokens


def test_labels_of_the_characters() -> None:
    assert spell([ord("a"), 0xE9, 256, 256 + 0x0A]) == "aéァ" + chr(0x30AB)


@pytest.mark.parametrize(
    ("task", "options", "complaint"),
    [
        ("translate", {"speculate": True, "version": "4.0"}, "leave engine.options.speculate out"),
        ("transcribe", {"speculate": True, "version": "4.1"}, "lacks out_llm.safetensors"),
        ("transcribe", {"keep_draft_token": 0.4, "version": "4.0"}, "does nothing without engine.options.speculate"),
    ],
)
def test_drafts_that_cannot_be_are_refused(tmp_path: Path, task: str, options: dict[str, Any], complaint: str) -> None:
    write_granite(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        describe_engine(
            EngineConfig.model_validate({"name": "granite", "model": str(tmp_path), "task": task, "options": options})
        )


def test_a_head_that_does_not_fit_is_told(tmp_path: Path) -> None:
    write_granite(tmp_path)
    head = tmp_path / "out_llm.safetensors"
    for tensors, complaint in (
        ({"weight": torch.zeros(321, 16), "bias": torch.zeros(321)}, "the encoder has 32 channels"),
        ({"weight": torch.zeros(400, 32), "bias": torch.zeros(400)}, "320 tokens; take all files"),
        ({"weight": torch.zeros(321, 32)}, "holds no weight with a bias"),
    ):
        save_file(tensors, head)
        with pytest.raises(ConfigError, match=complaint):
            loaded(tmp_path, "4.1", speculate=True)
    head.write_bytes(b"nothing")
    with pytest.raises(ConfigError, match=r"out_llm\.safetensors of .* cannot be read"):
        loaded(tmp_path, "4.1", speculate=True)
