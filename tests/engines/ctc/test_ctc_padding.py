"""Which families are independent of padding is measured, and nothing else makes them share a padded batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from ctc_checkpoints import murmur, write_parakeet, write_turboctc, write_wav2vec2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.engines.ctc.alignment import Floats, Ints
from pipeline.engines.ctc.checkpoint import FAMILIES, read_checkpoint
from pipeline.engines.ctc.recognizer import Recognizer
from pipeline.engines.model_files import find_model
from pipeline.records import Samples

WRITERS: dict[str, Callable[[Path], None]] = {
    "granite_speech5_ctc": write_turboctc,
    "parakeet_ctc": write_parakeet,
    **{
        name: partial(write_wav2vec2, family=name, **({"conv_dim": (16,) * 13} if name.startswith("sew") else {}))
        for name in FAMILIES
        if name not in ("granite_speech5_ctc", "parakeet_ctc")
    },
    "wav2vec2 with group norm": partial(write_wav2vec2, norm="group"),
    "hubert with group norm": partial(write_wav2vec2, norm="group", family="hubert"),
}
PADDED = [name for name in WRITERS if "group" not in name and FAMILIES[name].masks != "never"]
CLIPS = [murmur(n) for n in (16_000, 40_000, 8_000, 30_100, 1_600)]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    found: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in found:
            found[name] = tmp_path_factory.mktemp("ctc")
            WRITERS[name](found[name])
        return found[name]

    return folder


@contextmanager
def recognizer(folder: Path, *, masked: bool | None = None) -> Iterator[Recognizer]:
    """The engine's own; `masked` overrules what the checkpoint says."""
    checkpoint = read_checkpoint(find_model(str(folder)))
    if masked is not None:
        checkpoint = replace(checkpoint, is_masked=masked)
    made = Recognizer(folder, checkpoint, device=torch.device("cpu"), dtype=torch.float32, attention=None, threads=1)
    yield made
    made.close()


Heard = Sequence[tuple[Ints, Floats]]


def worst_difference(found: Heard, wanted: Heard) -> float:
    """Between posteriors; 1 where the labels are others."""
    differences = [0.0]
    for (labels, posteriors), (other_labels, other_posteriors) in zip(found, wanted, strict=True):
        assert len(labels) == len(other_labels)
        differences.append(float(np.abs(posteriors - other_posteriors).max()))
        differences.append(float((labels != other_labels).any()))
    return max(differences)


def alone(model: Recognizer, clips: Sequence[Samples]) -> Heard:
    return [model.labels([clip])[0] for clip in clips]


@pytest.mark.parametrize("name", WRITERS)
def test_a_clip_is_heard_alike_alone_and_in_any_batch(folders: Callable[[str], Path], name: str) -> None:
    with recognizer(folders(name)) as model:
        wanted = alone(model, CLIPS)
        assert worst_difference(model.labels(CLIPS), wanted) < TOLERANCE
        assert worst_difference(model.labels([*CLIPS[::-1], CLIPS[2]]), [*wanted[::-1], wanted[2]]) < TOLERANCE
        assert len({row[0].tobytes() for row in wanted}) == len(CLIPS), "clips are told apart"


@pytest.mark.parametrize("name", [name for name in WRITERS if name not in PADDED])
def test_models_that_run_by_length_would_be_wrong_in_a_padded_batch(folders: Callable[[str], Path], name: str) -> None:
    """With a mask: without one it is worse."""
    with recognizer(folders(name), masked=True) as model:
        assert worst_difference(model.labels(CLIPS), alone(model, CLIPS)) > 0.01


def test_what_is_masked_follows_from_the_config(folders: Callable[[str], Path]) -> None:
    masked = {name: read_checkpoint(find_model(str(folders(name)))).is_masked for name in WRITERS}
    assert masked == {name: name in PADDED for name in WRITERS}


@pytest.fixture(scope="module", params=["granite_speech5_ctc", "parakeet_ctc", "wav2vec2"])
def model(request: pytest.FixtureRequest, folders: Callable[[str], Path]) -> Iterator[Recognizer]:
    with recognizer(folders(request.param)) as found:
        yield found


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(1_600, 24_000), min_size=2, max_size=5), seed=st.integers(0, 99))
def test_batches_of_any_lengths(model: Recognizer, sizes: list[int], seed: int) -> None:
    source = np.random.default_rng(seed)
    clips = [(murmur(size) * source.uniform(0.05, 1)).astype(np.int16) for size in sizes]
    assert worst_difference(model.labels(clips), alone(model, clips)) < TOLERANCE
