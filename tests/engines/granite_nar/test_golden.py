"""Every stage equals the outputs of reference code that nobody here wrote, from every published checkpoint layout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import torch
from models import Transcribed, finish, one_thread

from pipeline.engines.granite_nar import draft, projector
from pipeline.engines.granite_nar.collapse import collapse
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.encoder import linear
from pipeline.engines.granite_nar.loading import load_weights
from pipeline.engines.granite_nar.model import Batch, Model
from pipeline.engines.granite_nar.packing import frames_of, pack_edit, pack_frames, pack_samples, row_samples
from pipeline.engines.granite_nar.weights import Linear, Weights

Stages = dict[str, npt.NDArray[Any]]

LAYOUTS = ("remote", "native", "remote_layout_a")
TYPES = (torch.float32, torch.float64)
FEATURES = 1.5e-4
# Absolute, as the fixtures' README states them; three times the spread between independent references.
TOLERANCES = {
    torch.float32: {
        "tap0": 3e-5,
        "tap1": 3e-5,
        "tap2": 3e-5,
        "tap3": 3e-5,
        "blank_prob": 1e-5,
        "bpe_logits": 2e-4,
        "audio_embeds": 2e-6,
        "text_logits": 2e-6,
    },
    torch.float64: {
        "tap0": 1e-9,
        "tap1": 2e-6,
        "tap2": 2e-6,
        "tap3": 2e-6,
        "blank_prob": 1e-6,
        "bpe_logits": 3e-5,
        "audio_embeds": 2e-7,
        "text_logits": 5e-7,
    },
}
IDS = ("bpe_argmax", "hyp_ids", "slot_ids", "text_argmax", "final_ids", "final2_ids")
NOT_INT16 = {"noise_1p5s", "chirp_2p2s"}  # synthetic; the engine gets int16
FROM_WAVEFORM = 4  # times the tolerance


class Loaded(NamedTuple):
    model: Model
    weights: Weights
    config: ModelConfig


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def golden(shared: Path) -> Path:
    folder = shared / "golden" / "nar_tiny_a"
    if not folder.is_dir():
        pytest.skip("no golden fixtures in the shared material")
    return folder


@cache
def load(folder: Path, dtype: torch.dtype) -> Loaded:
    weights, config, labels = load_weights(folder, dtype=dtype, device=torch.device("cpu"))
    return Loaded(Model(weights, config, labels, backend="sdpa"), weights, config)


@cache
def read(path: Path) -> dict[str, Stages]:
    """Clip → field → values."""
    clips: dict[str, Stages] = {}
    with np.load(path) as stored:
        for key in stored.files:
            clip, _, field = key.partition("/")
            if field:
                clips.setdefault(clip, {})[field] = stored[key]
    return clips


def pack(waveforms: Sequence[npt.NDArray[np.float32]], config: ModelConfig) -> Batch:
    """As `Model.pack`, of waveforms that int16 cannot hold."""
    frames = frames_of(np.array([len(clip) for clip in waveforms]))
    row: Any = np.empty(row_samples(frames), np.float32)
    pack_samples([clip * np.float32(32_768) for clip in waveforms], row)
    return Batch(torch.from_numpy(row), pack_frames(frames, config), len(waveforms))


def run(loaded: Loaded, clips: Sequence[Stages], *, stored_features: bool) -> list[Stages]:
    """All stages of some clips in one batch."""
    model, weights, config = loaded
    batch = pack([clip["waveform"] for clip in clips], config)
    with torch.inference_mode():
        uploaded = model.upload(batch)
        x = model.features(uploaded, batch.clips)
        fields = {"features": x}
        if stored_features:
            x = torch.from_numpy(np.concatenate([clip["features"] for clip in clips]))
        found = model.encode(x.to(model.dtype), uploaded.places)
        fields |= {f"tap{number}": tap for number, tap in enumerate(found.taps)} | {"blank_prob": found.blank}
        fields["bpe_logits"] = linear(draft.pool(found.taps[-1], found.blank, uploaded.label), weights.encoder.draft)
        projected = projector.project(found.taps, uploaded.window, weights.projector, config.projector)
        audio = projected[uploaded.audio]
        fields["audio_embeds"] = audio / config.editor.embedding_multiplier
        ids = read_text(loaded, batch, fields["bpe_logits"], audio)
    packing = batch.packing
    rows = dict.fromkeys(fields, packing.frames) | {"bpe_logits": packing.labels, "audio_embeds": packing.audios}
    rows |= {name: sizes for name, (_, sizes) in ids.items()}
    values = {name: field.numpy() for name, field in fields.items()} | {name: field for name, (field, _) in ids.items()}
    parts = {name: np.split(field, np.cumsum(rows[name])[:-1]) for name, field in values.items()}
    return [{name: parts[name][number] for name in parts} for number in range(len(clips))]


def read_text(loaded: Loaded, batch: Batch, bpe_logits: torch.Tensor, audio: torch.Tensor) -> dict[str, Any]:
    """Field → (values of all clips, rows of each): ids of the draft, of the editor, and of a second pass of the editor."""
    model, weights, config = loaded
    fields: dict[str, Any] = {}
    labels = bpe_logits.argmax(-1).numpy()
    fields["bpe_argmax"] = labels, batch.packing.labels
    sizes, names = batch.packing.labels, model.labels
    tokens = collapse(labels, np.ones(len(labels), np.float32), sizes, blank=names.blank, shift=names.shift)
    fields["hyp_ids"] = tokens.ids, tokens.counts
    for final in ("final_ids", "final2_ids"):
        packing = pack_edit(batch.packing, np.arange(batch.clips), tokens.split(), config)
        logits = linear(model.read_slots(audio, packing), Linear(weights.editor.embedding, None))
        best = logits.argmax(-1).numpy()
        tokens = collapse(best, np.ones(len(best), np.float32), packing.slots, blank=config.blank_id)
        if final == "final_ids":
            fields["slot_ids"] = packing.tokens, packing.slots
            fields["text_logits"] = (logits / config.editor.logits_scale).numpy(), packing.slots
            fields["text_argmax"] = best, packing.slots
        fields[final] = tokens.ids, tokens.counts
    return fields


def as_layout_b(found: Stages, blank: int) -> Stages:
    """The first layout has the blank's label in front, and a row that never wins where later ones have it."""
    logits = found["bpe_logits"][:, 1:].copy()
    logits[:, blank] = found["bpe_logits"][:, 0]
    best = np.where(found["bpe_argmax"] == 0, blank, found["bpe_argmax"] - 1)
    return found | {"bpe_logits": logits, "bpe_argmax": best}


def check(found: Stages, ids: Stages, floats: Stages, dtype: torch.dtype, *, stored_features: bool) -> None:
    """Features are float32 in either type, and so is what comes of our own ones."""
    precision, times = (dtype, 1) if stored_features else (torch.float32, FROM_WAVEFORM)
    np.testing.assert_allclose(found["features"], ids["features"], rtol=0, atol=FEATURES)
    for name, tolerance in TOLERANCES[precision].items():
        if name in floats:
            assert found[name].shape == floats[name].shape, name
            np.testing.assert_allclose(found[name], floats[name], rtol=0, atol=times * tolerance, err_msg=name)
    for name in IDS:
        np.testing.assert_array_equal(found[name], ids[name], err_msg=name)


def arrangements(count: int) -> dict[str, list[list[int]]]:
    shuffled = np.random.default_rng(20).permutation(count)
    return {
        "alone": [[number] for number in range(count)],
        "together": [list(range(count))],
        "shuffled": [shuffled.tolist()],
        "shuffled in three": [part.tolist() for part in np.array_split(shuffled[::-1], 3)],
    }


@pytest.mark.parametrize("stored_features", [True, False], ids=["from features", "from the waveform"])
@pytest.mark.parametrize("arrangement", ["alone", "together", "shuffled", "shuffled in three"])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_stage_equals_the_reference(
    golden: Path, layout: str, dtype: torch.dtype, arrangement: str, stored_features: bool
) -> None:
    loaded, stored = load(golden / layout, dtype), read(golden / "golden.npz")
    floats = stored if dtype == torch.float32 else read(golden / "golden_f64.npz")
    names = list(stored)
    assert len(names) == 13
    assert sum(name in floats for name in names) >= 12
    for batch in arrangements(len(names))[arrangement]:
        clips = [names[number] for number in batch]
        found = run(loaded, [stored[name] for name in clips], stored_features=stored_features)
        for name, stages in zip(clips, found, strict=True):
            here = as_layout_b(stages, loaded.config.blank_id) if loaded.model.labels.shift else stages
            check(here, stored[name], floats.get(name, {}), dtype, stored_features=stored_features)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_the_model_as_the_engine_runs_it_gives_the_reference_ids(golden: Path, layout: str, backend: Any) -> None:
    loaded, stored = load(golden / layout, torch.float32), read(golden / "golden.npz")
    model = Model(loaded.weights, loaded.config, loaded.model.labels, backend=backend)
    names = [name for name in stored if name not in NOT_INT16]
    waveforms = [stored[name]["waveform"] * np.float32(32_768) for name in names]
    clips = [waveform.astype(np.int16) for waveform in waveforms]
    assert all((clip == waveform).all() for clip, waveform in zip(clips, waveforms, strict=True))
    with torch.inference_mode():
        batch = model.pack(clips, round_to=64)
        found = finish(model, model.begin(batch, model.upload(batch)))
    check_ids_and_posteriors(found, [stored[name] for name in names], loaded.config.blank_id)
    with torch.inference_mode():
        batch = pack([clip["waveform"] for clip in stored.values()], loaded.config)
        found = finish(model, model.begin(batch, model.upload(batch)))
    check_ids_and_posteriors(found, list(stored.values()), loaded.config.blank_id)


def check_ids_and_posteriors(found: Sequence[Transcribed], clips: Sequence[Stages], blank: int) -> None:
    for here, clip in zip(found, clips, strict=True):
        np.testing.assert_array_equal(here.draft, clip["hyp_ids"])
        np.testing.assert_array_equal(here.final, clip["final_ids"])
        for probabilities, logits in (
            (here.draft_probabilities, clip["bpe_logits"]),
            (here.final_probabilities, clip["text_logits"]),
        ):
            np.testing.assert_allclose(probabilities, posteriors(logits, blank), rtol=1e-4)


def posteriors(logits: npt.NDArray[np.float32], blank: int) -> list[float]:
    """The highest posterior in every run of one label that is no blank."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    runs: list[float] = []
    last = None
    for label, highest in zip(logits.argmax(-1).tolist(), (1 / shifted.sum(-1)).tolist(), strict=True):
        if label != blank:
            runs = [*runs[:-1], max(runs[-1], highest)] if label == last else [*runs, highest]
        last = label
    return runs


def test_features_equal_the_reference_where_its_padding_does_not_leak(golden: Path) -> None:
    """Alone everywhere; in a padded batch but for a last frame whose window reaches over the clip's end."""
    clips = read(golden.parent / "golden_features.npz")
    batched, mask = clips["batch"]["nar_features"], clips["batch"]["nar_mask"]
    names = [name for name in clips if name != "batch"]
    assert len(names) == len(batched) == 4
    model, _, config = load(golden / "remote", torch.float32)
    batch = pack([clips[name]["waveform"] for name in names], config)
    with torch.inference_mode():
        x = model.features(model.upload(batch), batch.clips).numpy()
    for number, here in enumerate(np.split(x, np.cumsum(batch.packing.frames)[:-1])):
        clip = clips[names[number]]
        assert clip["nar_mask"].all()
        np.testing.assert_allclose(here, clip["nar_features"], rtol=0, atol=FEATURES)
        np.testing.assert_array_equal(np.flatnonzero(mask[number]), np.arange(len(here)))
        differ = np.abs(here - batched[number, : len(here)]).max(1) > FEATURES
        leaking = len(clip["waveform"]) % 320 < 40
        assert np.flatnonzero(differ).tolist() == [len(here) - 1] * leaking


def test_labels_become_the_reference_slots(golden: Path) -> None:
    given = json.loads((golden / "decode_cases.json").read_text("utf-8"))
    blank, cases = given["blank_token_id"], given["cases"]
    config = ModelConfig(blank_id=blank, min_slots=given["min_edit_sequence_length"])
    assert len(cases) > 3
    for name, its_blank, shift in (("argmax_layout_b", blank, 0), ("argmax_layout_a", 0, 1)):
        rows = [np.array(case[name], np.int64) for case in cases]
        sizes = np.array([len(row) for row in rows])
        labels = np.concatenate(rows)
        tokens = collapse(labels, np.ones(len(labels), np.float32), sizes, blank=its_blank, shift=shift)
        assert [ids.tolist() for ids in tokens.split()] == [case["collapsed"] for case in cases]
        none = pack_frames(np.zeros(len(cases), np.int64), config)
        packing = pack_edit(none, np.arange(len(cases)), tokens.split(), config)
        slots = np.split(packing.tokens, np.cumsum(packing.slots)[:-1])
        assert [part.tolist() for part in slots] == [case["slots"] for case in cases]
