"""Which clips skip the editor: as a plain loop would choose, none unless asked, and each as if it were alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from models import Transcribed, babble, one_thread, transcribe

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.granite_nar.collapse import Tokens
from pipeline.engines.granite_nar.engine import GraniteNar
from pipeline.engines.granite_nar.loading import load_weights
from pipeline.engines.granite_nar.model import Batch, Model
from pipeline.engines.granite_nar.packing import pack_frames
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint
from pipeline.engines.granite_nar.reading import Reading, TokenReader
from pipeline.engines.granite_nar.routing import keep_sure_drafts
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError
from pipeline.records import ChunkAudio, Hypothesis

STEPS = 64  # probabilities in such steps add up without rounding: a threshold is met or missed, never nearly
LENGTHS = (30_000, 5_000, 61_000, 1_600, 24_000, 9_000, 45_000, 3_200, 15_000, 80_000)
CONFIDENCE_TOLERANCE = 1e-4

steps = st.integers(0, STEPS)


@given(clips=st.lists(st.lists(steps, max_size=5), max_size=8), mean=st.integers(1, STEPS), token=steps)
@example(clips=[[], [64], [32, 64], [31, 64], [48, 48], [47, 49]], mean=48, token=32)
@example(clips=[[]], mean=1, token=0)
@example(clips=[], mean=1, token=0)
def test_the_choice_is_that_of_a_plain_loop(clips: list[list[int]], mean: int, token: int) -> None:
    counts = np.array([len(clip) for clip in clips], np.int64)
    ids = np.arange(int(counts.sum())) + 100
    probabilities = np.array([step / STEPS for clip in clips for step in clip], np.float32)
    packing = pack_frames(np.ones(len(clips), np.int64), TINY)
    batch = Batch(torch.zeros(0, dtype=torch.int16), packing, len(clips))
    plan = keep_sure_drafts(mean / STEPS, token / STEPS)(batch, Tokens(ids, counts, probabilities))
    wanted, at = [], 100
    for number, clip in enumerate(clips):
        if not clip or Fraction(sum(clip), len(clip)) < mean or min(clip) < token:
            wanted.append((number, list(range(at, at + len(clip)))))
        at += len(clip)
    assert [(int(clip), draft.tolist()) for clip, draft in zip(plan.clips, plan.drafts, strict=True)] == wanted


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("granite-nar")
    write_checkpoint(found, TINY, layout="B", seed=0)
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Model:
    weights, config, labels = load_weights(folder, dtype=torch.float32, device=torch.device("cpu"))
    return Model(weights, config, labels, backend="sdpa")


@pytest.fixture(scope="module")
def speechless(model: Model) -> int:
    """Length of a clip that is long enough to be heard and whose draft is empty."""
    return next(n for n in range(1600, 32_000, 320) if not len(transcribe(model, [babble(n)])[0].draft))


@pytest.fixture(scope="module")
def known(model: Model, speechless: int) -> list[Transcribed]:
    """What the model makes of every clip, alone; the last one has no draft."""
    found = [transcribe(model, [babble(n)])[0] for n in (*LENGTHS, speechless)]
    assert [len(clip.draft) > 0 for clip in found] == [True] * len(LENGTHS) + [False]
    assert all(clip.draft.tolist() != clip.final.tolist() for clip in found)
    return found


@pytest.fixture(scope="module")
def chunks(speechless: int) -> list[ChunkAudio]:
    return [ChunkAudio(babble(n)) for n in (*LENGTHS, speechless)]


@contextmanager
def engine(folder: Path, **options: object) -> Iterator[GraniteNar]:
    made = GraniteNar(EngineConfig(name="granite-nar", model=str(folder), threads=1, options=options))
    made.load()
    yield made
    made.close()


def read(folder: Path, known: list[Transcribed], drafts: list[bool]) -> list[Reading]:
    """What the engine should say where these clips keep their draft."""
    tokens = [
        (clip.draft, clip.draft_probabilities) if kept else (clip.final, clip.final_probabilities)
        for clip, kept in zip(known, drafts, strict=True)
    ]
    return TokenReader(folder / "tokenizer.json", TINY.editor.vocabulary).read(tokens, words=True)


def assert_said(found: list[Hypothesis], wanted: list[Reading], drafts: list[bool]) -> None:
    assert [one.stop_reason for one in found] == ["draft" if kept else "single_pass" for kept in drafts]
    assert [one.is_draft for one in found] == drafts
    assert [one.text for one in found] == [one.text for one in wanted]
    for here, there in zip(found, wanted, strict=True):
        assert here.confidence == pytest.approx(there.confidence, rel=CONFIDENCE_TOLERANCE)
        assert [word.word for word in here.words] == [word.word for word in there.words]


def test_no_draft_is_kept_unless_asked(folder: Path, chunks: list[ChunkAudio], known: list[Transcribed]) -> None:
    nobody = [False] * len(chunks)
    with engine(folder) as made:
        assert_said(made.transcribe(chunks), read(folder, known, nobody), nobody)
    with engine(folder, keep_draft_token=0.0) as made:  # a limit for tokens alone asks for nothing
        assert not any(one.is_draft for one in made.transcribe(chunks))


def test_a_low_limit_keeps_every_draft_there_is(
    folder: Path, chunks: list[ChunkAudio], known: list[Transcribed]
) -> None:
    kept = [True] * len(LENGTHS) + [False]
    with engine(folder, keep_draft_mean=1e-9, keep_draft_token=0.0) as made:
        found = made.transcribe(chunks)
        assert_said(found, read(folder, known, kept), kept)
        assert [one.n_tokens for one in found] == [*(len(clip.draft) for clip in known[:-1]), len(known[-1].final)]
        only_drafts = made.transcribe(chunks[:3])  # a batch of which nothing goes to the editor
        assert_said(only_drafts, read(folder, known[:3], [True] * 3), [True] * 3)
        assert_said(made.transcribe(chunks[-1:]), read(folder, known[-1:], [False]), [False])


def test_a_limit_for_the_worst_token_counts_as_well(
    folder: Path, chunks: list[ChunkAudio], known: list[Transcribed]
) -> None:
    worst = [min(clip.draft_probabilities, default=0.0) for clip in known]
    limit = float(np.median(worst[:-1]))
    kept = [lowest > limit for lowest in worst]
    assert 0 < sum(kept) < len(LENGTHS)
    with engine(folder, keep_draft_mean=1e-9, keep_draft_token=limit * 1.001) as made:
        assert_said(made.transcribe(chunks), read(folder, known, kept), kept)


def test_mixed_batches_give_every_clip_what_it_gets_alone(
    folder: Path, chunks: list[ChunkAudio], known: list[Transcribed]
) -> None:
    means = [float(clip.draft_probabilities.mean()) if len(clip.draft) else 0.0 for clip in known]
    limit = float(np.median(means[:-1]))
    kept = [mean > limit for mean in means]
    assert 0 < sum(kept) < len(LENGTHS)
    wanted = read(folder, known, kept)
    source = np.random.default_rng(0)
    with engine(folder, keep_draft_mean=limit * 1.001, keep_draft_token=0.0) as made:
        for _ in range(6):
            order = source.permutation(len(chunks))[: source.integers(1, len(chunks) + 1)]
            found = made.transcribe([chunks[index] for index in order])
            assert_said(found, [wanted[index] for index in order], [kept[index] for index in order])
        _, stats = run_batches(made, chunks, BatchConfig(max_audio_s=10), MemoryBudget())
        assert stats.batches > 1
        assert stats.draft_s == pytest.approx(sum(chunks[index].audio_s for index in np.flatnonzero(kept)))


@pytest.mark.parametrize("options", [{"keep_draft_mean": 0.0}, {"keep_draft_mean": 1.1}, {"keep_draft_token": -0.1}])
def test_limits_that_are_no_probability_are_refused(folder: Path, options: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"engine\.options\.keep_draft_"):
        GraniteNar.describe(EngineConfig(name="granite-nar", model=str(folder), options=options))
