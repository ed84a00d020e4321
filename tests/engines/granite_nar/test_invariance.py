"""The law of the packed model: what a clip gets depends on no other clip, no order, no packing and no backend."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from models import Transcribed, babble, one_thread, random_model, random_weights, transcribe

from pipeline.engines.granite_nar import attention, draft, encoder, features, model, packing, projector
from pipeline.engines.granite_nar.attention import BACKENDS, Backend
from pipeline.engines.granite_nar.collapse import Floats
from pipeline.engines.granite_nar.model import Model
from pipeline.engines.granite_nar.packing import Ints, Samples
from pipeline.engines.granite_nar.random_checkpoint import TINY

pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

FRAME = packing.FRAME_SAMPLES
BLOCK = TINY.encoder.context * FRAME
# Around every edge: no frame at all, one frame, whole attention blocks, one frame more or less, whole windows, 0.1 s, 30 s.
EDGES = (0, 1, 319, 320, 321, 639, 640, 1600, BLOCK - 1, BLOCK, 2 * BLOCK, 3 * BLOCK, BLOCK + FRAME, 3 * BLOCK + FRAME)
EDGES += (2 * BLOCK - FRAME, 15 * FRAME, 16 * FRAME, 60 * FRAME + 39, 60 * FRAME + 40, 480_000)
MIX = (3 * BLOCK + FRAME, 1, 1600, BLOCK, 0, 20_011, 320, 2 * BLOCK - FRAME, 4_777)

lengths = st.one_of(st.sampled_from(EDGES), st.integers(0, 50_000))


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    with one_thread():
        yield


@cache
def tiny(backend: Backend) -> Model:
    return random_model(random_weights(seed=3), backend)


@cache
def alone(n_samples: int) -> Transcribed:
    return transcribe(tiny("sdpa"), [babble(n_samples)])[0]


@cache
def clip_without_draft() -> int:
    """Length of a clip with frames whose hypothesis is empty."""
    return next(n for n in range(320, 16_000, 320) if not len(alone(n).draft))


def check(batches: Sequence[Sequence[int]], backend: Backend, round_to: int = 1) -> None:
    """Assert that every clip gets in these batches what it gets alone."""
    for batch in batches:
        found = transcribe(tiny(backend), [babble(n) for n in batch], round_to=round_to)
        assert len(found) == len(batch)
        for n_samples, here in zip(batch, found, strict=True):
            expected = alone(n_samples)
            np.testing.assert_array_equal(here.draft, expected.draft)
            np.testing.assert_array_equal(here.final, expected.final)
            close(here.draft_probabilities, expected.draft_probabilities)
            close(here.final_probabilities, expected.final_probabilities)


def close(here: Floats, expected: Floats) -> None:
    np.testing.assert_allclose(here, expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(here, expected, rtol=1e-4)  # most are near 1 / vocabulary


@st.composite
def batches(draw: st.DrawFn) -> list[list[int]]:
    clips = draw(st.lists(lengths, min_size=1, max_size=9))
    ends = sorted(draw(st.sets(st.integers(1, len(clips)), max_size=3)) | {0, len(clips)})
    return [clips[begin:end] for begin, end in pairwise(ends)]


@settings(max_examples=30)
@given(batches(), st.sampled_from(("sdpa", "sdpa", "flex")), st.sampled_from((1, 64, 256)))
@example([list(EDGES)], "sdpa", 1)
@example([list(reversed(EDGES))], "flex", 256)
@example([[480_000, 1600, 480_000]], "flex", 64)
@example([[0, 1, 319]], "sdpa", 1)
@example([[0]], "flex", 64)
def test_any_packing_gives_the_clip_alone(clips: list[list[int]], backend: Backend, round_to: int) -> None:
    check(clips, backend, round_to)


@pytest.mark.slow
@settings(max_examples=300)
@given(batches(), st.sampled_from(("sdpa", "flex")), st.sampled_from((1, 64, 256)))
def test_any_of_many_packings_gives_the_clip_alone(clips: list[list[int]], backend: Backend, round_to: int) -> None:
    """The long form of the test above."""
    check(clips, backend, round_to)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_an_empty_hypothesis_among_others_gives_the_clip_alone(backend: Backend) -> None:
    silent = clip_without_draft()
    check([[silent], [5_000, silent, 1600, silent, 0, 30_000], [silent, silent]], backend)


@pytest.mark.parametrize("backend", ["sdpa", "flex"])
def test_no_clips_give_nothing(backend: Backend) -> None:
    assert transcribe(tiny(backend), []) == []


def test_reading_the_head_in_slices_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    check([MIX], "sdpa")  # fills the cache of what the clips get alone
    monkeypatch.setattr(draft, "_SLICE_ELEMENTS", 3 * TINY.editor.vocabulary)  # three rows at once
    check([MIX], "sdpa")


def test_a_projection_that_is_not_scaled_weighs_as_much_as_all_embeddings() -> None:
    weights, factor = random_weights(seed=3), TINY.editor.embedding_multiplier
    out = weights.projector.out
    assert out.bias is not None
    smaller = weights.projector._replace(out=out._replace(weight=out.weight / factor, bias=out.bias / factor))
    unscaled = random_model(weights._replace(projector=smaller), config=replace(TINY, scale_projected=False))
    np.testing.assert_array_equal(transcribe(unscaled, [babble(20_011)])[0].final, alone(20_011).final)


def test_the_tiny_model_has_something_to_lose() -> None:
    """Were its ids all alike, or the editor idle, equal ids would prove nothing."""
    long = alone(480_000)
    assert len(long.draft) > 30
    assert len({*long.draft.tolist()}) > 15
    assert len({*long.final.tolist()}) > 15
    assert long.draft.tolist() != long.final.tolist()
    assert sum(len(alone(n).draft) > 0 for n in EDGES) > len(EDGES) / 2


Break = Callable[[pytest.MonkeyPatch], None]


def convolve_across_clips(patch: pytest.MonkeyPatch) -> None:
    def space(frames: Ints, gap: int) -> tuple[Ints, Ints]:
        place = np.arange(int(frames.sum()))
        return np.pad(place, gap, constant_values=-1), place

    patch.setattr(packing, "_space", space)


def attend_to_empty_places(patch: pytest.MonkeyPatch) -> None:
    right = encoder.block_attention

    def unmasked(h, index, weights, heads):
        return right(h, index._replace(block=index.block.clamp_min(0)), weights, heads)

    patch.setattr(encoder, "block_attention", unmasked)


def share_the_loudest_value(patch: pytest.MonkeyPatch) -> None:
    right = features.LogMel.__call__
    patch.setattr(features.LogMel, "__call__", lambda self, x, mel, clip, clips: right(self, x, mel, clip * 0, clips))


def pool_across_clips(patch: pytest.MonkeyPatch) -> None:
    right = draft.pool
    patch.setattr(draft, "pool", lambda h, blank, label: right(h, blank, label.clamp_min(0)))


def project_across_clips(patch: pytest.MonkeyPatch) -> None:
    right = projector.project

    def unmasked(taps, window, weights, config):
        return right(taps, window.clamp_min(0), weights, config)

    patch.setattr(projector, "project", unmasked)


def edit_all_clips_as_one(patch: pytest.MonkeyPatch) -> None:
    right = attention.lay_out
    patch.setattr(attention, "lay_out", lambda sizes, backend, device: right(sizes.sum(keepdims=True), backend, device))


def attend_to_padding(patch: pytest.MonkeyPatch) -> None:
    right = attention.lay_out

    def unmasked(sizes, backend, device):
        spans = right(sizes, backend, device)
        return spans._replace(groups=tuple(group._replace(taken=None) for group in spans.groups))

    patch.setattr(attention, "lay_out", unmasked)


def collapse_across_clips(patch: pytest.MonkeyPatch) -> None:
    right = model.collapse

    def merged(labels, probabilities, sizes, **names):
        one = right(labels, probabilities, sizes.sum(keepdims=True), **names)
        rest = np.zeros(len(sizes) - 1, np.int64)
        return type(one)(one.ids, np.append(one.counts, rest), one.probabilities)

    patch.setattr(model, "collapse", merged)


BREAKS: list[Break] = [
    convolve_across_clips,
    attend_to_empty_places,
    share_the_loudest_value,
    pool_across_clips,
    project_across_clips,
    edit_all_clips_as_one,
    attend_to_padding,
    collapse_across_clips,
]


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.__name__)
def test_the_law_catches_a_leak(broken: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    check([MIX], "sdpa")  # also fills the cache of what the clips get alone, before anything is broken
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        check([MIX], "sdpa")


def test_the_law_catches_a_leak_in_flex(monkeypatch: pytest.MonkeyPatch) -> None:
    check([MIX], "flex")
    edit_all_clips_as_one(monkeypatch)
    with pytest.raises(AssertionError):
        check([MIX], "flex")


@pytest.mark.parametrize(
    ("backend", "device"),
    [("sdpa", "cpu"), ("flex", "cpu"), *(pytest.param(name, "cuda", marks=pytest.mark.gpu) for name in BACKENDS)],
)
def test_half_precision_reads_nearly_every_slot_alike(backend: Backend, device: str) -> None:
    """In bfloat16 a kernel's last bits differ, and random weights turn some of them into another label; never many."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if lack := attention.missing(backend, torch.device(device), torch.bfloat16):
        pytest.skip(lack)
    clips = [babble(n) for n in (*EDGES, *MIX)]
    drafts = [alone(len(clip)).draft for clip in clips]
    expected = slot_labels(tiny("sdpa"), clips, drafts)
    half = random_model(random_weights(seed=3, dtype=torch.bfloat16, device=device), backend)
    found = slot_labels(half, clips, drafts)
    assert found.shape == expected.shape
    assert np.mean(found == expected) > 0.9


def slot_labels(model: Model, clips: list[Samples], drafts: list[Ints]) -> Ints:
    """What the editor says in every slot, given the drafts."""
    with torch.inference_mode():
        batch = model.pack(clips, round_to=64)
        begun = model.begin(batch, model.upload(batch))
        return model.edit(begun, np.arange(len(clips)), drafts).labels.wait()[0]


@pytest.mark.gpu
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_packing_gives_nearly_every_clip_alone_on_the_gpu(backend: Backend) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if lack := attention.missing(backend, torch.device("cuda"), torch.bfloat16):
        pytest.skip(lack)
    half = random_model(random_weights(seed=3, dtype=torch.bfloat16, device="cuda"), backend)
    clips = [babble(n) for n in (*EDGES, *MIX)]
    together = transcribe(half, clips, round_to=64)
    one_by_one = [transcribe(half, [clip])[0] for clip in clips]
    same = [np.array_equal(here.final, there.final) for here, there in zip(together, one_by_one, strict=True)]
    assert np.mean(same) > 0.6
