"""The front end of Granite Speech 5 against features of the published code, alone and in a batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.engines.ctc.features import GraniteFeatures, WaveformFeatures
from pipeline.records import Samples

CLIPS = ("speech_1p0s", "goforward", "speech_0p05s", "odd_mels")
TOLERANCE = 1e-4  # the published filters are float32, ours are rounded from float64


@pytest.fixture(scope="module")
def golden(shared: Path) -> dict[str, np.ndarray]:
    path = shared / "golden" / "golden_features.npz"
    if not path.is_file():
        pytest.skip("no golden features in the shared material")
    with np.load(path) as found:
        return dict(found)


@pytest.fixture(scope="module")
def clips(golden: dict[str, np.ndarray]) -> list[Samples]:
    found = [golden[f"{clip}/waveform"] * 32768 for clip in CLIPS]
    assert all((clip == clip.round()).all() for clip in found), "int16 holds them exactly"
    return [clip.astype(np.int16) for clip in found]


def test_features_are_those_of_the_published_code_for_the_clip_alone(
    golden: dict[str, np.ndarray], clips: list[Samples]
) -> None:
    front_end = GraniteFeatures(torch.device("cpu"))
    together, lengths = front_end(clips)
    for row, (name, clip) in enumerate(zip(CLIPS, clips, strict=True)):
        wanted, mask = golden[f"{name}/speech5_features"], golden[f"{name}/speech5_mask"]
        alone, _ = front_end([clip])
        np.testing.assert_allclose(alone["input_features"][0], wanted, atol=TOLERANCE)
        np.testing.assert_array_equal(alone["attention_mask"][0], mask)
        np.testing.assert_allclose(together["input_features"][row, : len(wanted)], wanted, atol=TOLERANCE)
        assert together["attention_mask"][row].tolist() == mask.tolist() + [0] * (int(lengths.max()) - len(mask))
        assert not together["input_features"][row, len(wanted) :].any()
        assert lengths[row] == mask.sum()


def test_the_published_batch_differs_at_the_ends_which_is_why_this_one_is_our_own(
    golden: dict[str, np.ndarray],
) -> None:
    worst = 0.0
    for row, name in enumerate(CLIPS):
        alone = golden[f"{name}/speech5_features"]
        difference = np.abs(golden["batch/speech5_features"][row, : len(alone)] - alone)
        assert difference[:-2].max(initial=0) < TOLERANCE
        worst = max(worst, difference[-2:].max())
    assert worst > 0.1


@pytest.mark.parametrize("n_samples", [1600, 1601, 1759, 1760, 1761, 1919, 1920, 2080])
def test_every_length_gives_its_frames(n_samples: int) -> None:
    clip = np.random.default_rng(n_samples).integers(-9999, 9999, n_samples, np.int16)
    front_end = GraniteFeatures(torch.device("cpu"))
    alone, lengths = front_end([clip])
    assert lengths.tolist() == [-(-(n_samples // 160) // 2)]
    assert alone["input_features"].shape == (1, int(lengths[0]), 320)
    together, _ = front_end([np.resize(clip, 5000), clip])
    np.testing.assert_allclose(together["input_features"][1, : lengths[0]], alone["input_features"][0], atol=1e-6)


def test_a_model_without_masks_never_sees_a_padded_batch() -> None:
    from transformers import Wav2Vec2FeatureExtractor

    front_end = WaveformFeatures(Wav2Vec2FeatureExtractor(), torch.device("cpu"), masked=False)
    assert front_end([np.ones(1600, np.int16)] * 2)[0].keys() == {"input_values"}
    with pytest.raises(ValueError, match="different lengths"):
        front_end([np.ones(1600, np.int16), np.ones(1601, np.int16)])
