"""Decoding with drafts against decoding without: 200 random batches, and where a draft stands after each pass.

Random models never agree with their encoder's draft. So drafts are planted here through `decode_greedily`'s own argument: what
the model writes, with tokens replaced, left out and put in, or another row's text. For drafts that come from weights see
test_granite_speculation.py.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from granite_checkpoints import write_granite
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import GraniteSpeechForConditionalGeneration

from pipeline.engines.granite.decoding import Decoded, decode_greedily
from pipeline.engines.granite.drafting import MOST_MISSES, PIECE, Draft

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

CASES = 200
ENDS = {0, 44, 153}  # more than one, so that rows end early as well
POOL = 20  # prompts of a model that the cases draw their rows from


@pytest.fixture(scope="module", params=[0, 1])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("granite")
    write_granite(folder, seed=request.param)
    return GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


Model = GraniteSpeechForConditionalGeneration
Case = tuple[Tensor, int, Decoded]  # prompt, budget, what greedy decoding makes of it alone


@pytest.fixture(scope="module")
def pool(model: Model) -> list[Case]:
    source = torch.Generator().manual_seed(5)
    chance = random.Random(5)
    made = []
    with torch.inference_mode():
        for _ in range(POOL):
            prompt = torch.randn(chance.randint(3, 50), 32, generator=source) * 0.1
            budget = chance.choice([1, 2, 7, 20, 33, 48])
            made.append((prompt, budget, decode_greedily(model, [prompt], [budget], ENDS)[0]))
    return made


def perturbed(ids: list[int], rate: float, chance: random.Random) -> list[int]:
    """The tokens with mistakes, so many per token."""
    found = []
    for token in ids:
        if chance.random() >= rate:
            found.append(token)
            continue
        mistake = chance.randrange(3)
        found += [[chance.randrange(3, 300)], [], [chance.randrange(3, 300), token]][mistake]
    return found


def drafted(case: Case, others: list[Case], chance: random.Random) -> Draft | None:
    kind = chance.randrange(8)
    if kind < 5:
        tail = [chance.randrange(3, 300) for _ in range(chance.choice([0, 0, 9]))]
        return Draft(perturbed(case[2].ids, chance.choice([0, 0.1, 0.3]), chance) + tail)
    return [None, Draft([]), Draft(chance.choice(others)[2].ids)][kind - 5]


@torch.inference_mode()
def test_drafts_never_change_the_tokens(model: Model, pool: list[Case]) -> None:
    whole = partly = refused = 0
    for seed in range(CASES // 2):
        chance = random.Random(seed)
        cases = chance.sample(pool, chance.randint(1, 6))
        drafts = [drafted(case, pool, chance) for case in cases]
        found = decode_greedily(model, [case[0] for case in cases], [case[1] for case in cases], ENDS, drafts)
        for draft, one, (_, budget, alone) in zip(drafts, found, cases, strict=True):
            assert (one.ids, one.stop_reason) == (alone.ids, alone.stop_reason)
            assert one.probabilities == pytest.approx(alone.probabilities, rel=1e-3, abs=1e-5)
            assert 0 <= one.foretold <= len(one.ids)
            assert draft is not None or one.foretold == 0
            whole += draft is not None and budget > 1 and one.foretold >= len(one.ids) - 1 > 0
            partly += 0 < one.foretold < len(one.ids) - 1
            refused += draft is not None and len(draft) > 0 and one.foretold == 0 and len(one.ids) > MOST_MISSES
    # The paths under test were all taken: drafts that hold to the end, drafts left and found again, drafts given up.
    assert whole > 50, whole
    assert partly > 50, partly
    assert refused > 10, refused


@torch.inference_mode()
def test_a_right_draft_takes_one_pass_and_a_wrong_one_none_more_than_none(model: Model, pool: list[Case]) -> None:
    prompt, budget, alone = max(pool, key=lambda case: len(case[2].ids))
    passes = 0

    def count(*_: object) -> None:
        nonlocal passes
        passes += 1

    hook = model.model.language_model.register_forward_hook(count)
    counted = []
    for draft in (None, Draft(alone.ids), Draft(alone.ids[:-4]), Draft([7] * 20), Draft([9, *alone.ids])):
        passes = 0
        decode_greedily(model, [prompt], [budget], ENDS, [draft])
        counted.append(passes)
    hook.remove()
    greedy, right, short, wrong, shifted = counted
    assert greedy >= len(alone.ids)
    assert right == 1
    assert short <= 5
    assert wrong == greedy
    assert shifted <= 2 + len(alone.ids) // PIECE


@torch.inference_mode()
def test_a_draft_that_is_sure_enough_can_be_kept_as_it_is(model: Model, pool: list[Case]) -> None:
    """Not what greedy decoding writes: so it is flagged, and off unless asked for."""
    prompt, _, alone = max(pool, key=lambda case: len(case[2].ids))
    ids = alone.ids[:12]
    other = [*ids[:-1], ids[-1] + 1]
    sure, kept, unsure = (
        decode_greedily(model, [prompt], [40], ENDS, [Draft(draft)], least)[0]
        for draft, least in ((ids, 1e-9), (other, 1e-9), (other, 1.0))
    )
    assert (sure.ids, sure.stop_reason, sure.foretold) == (ids, "draft", 12)
    assert (kept.ids, kept.stop_reason) == (other, "draft")
    assert kept.probabilities[:-1] == pytest.approx(sure.probabilities[:-1])
    assert kept.probabilities[-1] < sure.probabilities[-1]
    (greedy,) = decode_greedily(model, [prompt], [40], ENDS)
    assert (unsure.ids, unsure.stop_reason) == (greedy.ids, greedy.stop_reason)
    assert decode_greedily(model, [prompt], [5], ENDS, [Draft(ids)], 1e-9)[0].ids == alone.ids[:5]


@given(st.lists(st.integers(0, 20), max_size=40), st.lists(st.integers(0, 20), min_size=1, max_size=40), st.data())
def test_a_draft_proposes_its_own_tokens_and_gives_up_in_time(
    ids: list[int], text: list[int], data: st.DataObject
) -> None:
    draft = Draft(ids)
    at = misses = 0
    first = True
    while at < len(text):
        room = data.draw(st.integers(0, 50))
        proposed = draft.propose(room)
        assert len(proposed) <= min(room, len(ids) if first else PIECE)
        assert proposed == () or any(tuple(ids[start : start + len(proposed)]) == proposed for start in range(len(ids)))
        first = False
        right = 0
        while right < len(proposed) and at + right < len(text) - 1 and proposed[right] == text[at + right]:
            right += 1
        misses = 0 if right else misses + bool(proposed)
        assert misses <= MOST_MISSES
        at += right
        draft.learn(len(proposed), right, text[at])
        at += 1


def test_a_draft_is_found_again_behind_mistakes() -> None:
    ids = list(range(10, 40))
    for text, again in (
        ([10, 11, 99], 13),  # one replaced
        ([10, 11, 13], 14),  # one left out
        ([10, 11, 99, 12], 13),  # one put in
        ([10, 11, 99, 98, 14], 15),  # two replaced
    ):
        draft = Draft(ids)
        draft.propose(100)
        draft.learn(30, 2, text[2])
        for token in text[3:]:
            draft.learn(0, 0, token)
        assert draft.propose(3) == tuple(range(again, again + 3))
