"""Features and audio embeddings against transformers' own, and clips in a batch against clips alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from ctc_checkpoints import murmur
from granite_checkpoints import write_granite
from transformers import GraniteSpeechForConditionalGeneration

from pipeline.engines.granite.listening import Ear

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

# Below, at and above an attention block (16 frames here) and a window of the projector (15); odd and even hops.
SIZES = [1_600, 4_800, 5_120, 5_121, 8_000, 16_000, 16_159, 16_160, 40_037, 99_999]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("granite")
    write_granite(made)
    return made


@pytest.fixture(scope="module")
def reference(folder: Path) -> GraniteSpeechForConditionalGeneration:
    return GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(scope="module")
def ear(folder: Path) -> Iterator[Ear]:
    with torch.inference_mode():
        yield Ear(GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval())


def test_features_are_those_of_the_published_extractor(ear: Ear, shared: Path) -> None:
    golden = np.load(shared / "golden" / "golden_features.npz")
    for name in golden["clip_names"]:
        waveform = golden[f"{name}/waveform"]
        samples = waveform if waveform.dtype == np.int16 else np.round(waveform * 32_768).astype(np.int16)
        assert np.abs(samples / 32_768 - (waveform if waveform.dtype != np.int16 else samples / 32_768)).max() < 1e-7
        found = ear.features(samples).numpy()
        assert found.shape == golden[f"{name}/ar_features"].shape
        np.testing.assert_allclose(found, golden[f"{name}/ar_features"], atol=2e-4)


@pytest.mark.parametrize("n_samples", SIZES)
@torch.inference_mode()
def test_a_clip_is_heard_as_transformers_hears_it(
    ear: Ear, reference: GraniteSpeechForConditionalGeneration, n_samples: int
) -> None:
    clip = murmur(n_samples)
    (found,) = ear.listen([clip])
    wanted = reference.get_audio_features(ear.features(clip)[None]).pooler_output[0]
    frames = (n_samples // 160 + 1) // 2
    assert found.shape == wanted.shape == (-(-frames // 15) * 3, 32)
    torch.testing.assert_close(found, wanted, atol=2e-4, rtol=1e-3)


@torch.inference_mode()
def test_batch_mates_change_nothing(ear: Ear) -> None:
    clips = [murmur(size) for size in SIZES]
    together = ear.listen(clips)
    for clip, found in zip(clips, together, strict=True):
        torch.testing.assert_close(found, ear.listen([clip])[0], atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_transformers_own_encoder_lets_padding_in(ear: Ear, reference: GraniteSpeechForConditionalGeneration) -> None:
    """Why the packed one is used: if this fails, the padding is masked, and the encoder of transformers would do."""
    features = ear.features(murmur(8_000))
    alone = reference.model.encoder(features[None]).last_hidden_state[0]
    padded = torch.nn.functional.pad(features[None], (0, 0, 0, 60))
    together = reference.model.encoder(padded).last_hidden_state[0, : len(features)]
    assert (alone - together).abs().max() > 1e-2
