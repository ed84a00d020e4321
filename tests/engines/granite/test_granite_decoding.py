"""Greedy decoding against transformers' own `generate`, one clip at a time, and against the plain language model's logits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from granite_checkpoints import write_granite
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import GraniteForCausalLM, GraniteSpeechForConditionalGeneration

from pipeline.engines.granite.decoding import decode_greedily, group_rows
from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import EngineError

torch.set_num_threads(1)  # on a busy machine threads wait for each other far longer than they compute

LENGTHS = [3, 40, 17, 17, 8, 25, 60, 5]
BUDGETS = [20, 5, 33, 64, 1, 12, 48, 40]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GraniteSpeechForConditionalGeneration:
    folder: Path = tmp_path_factory.mktemp("granite")
    write_granite(folder)
    return GraniteSpeechForConditionalGeneration.from_pretrained(folder, local_files_only=True).eval()


@pytest.fixture(scope="module")
def prompts() -> list[Tensor]:
    source = torch.Generator().manual_seed(3)
    return [torch.randn(length, 32, generator=source) * 0.1 for length in LENGTHS]


def generated(model: GraniteSpeechForConditionalGeneration, prompt: Tensor, budget: int) -> list[int]:
    """Greedy tokens of transformers, without the end token, cut where the detector cuts."""
    found = model.generate(
        inputs_embeds=prompt[None],
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        max_new_tokens=budget,
        do_sample=False,
        num_beams=1,
    )[0].tolist()
    if 0 in found:
        found = found[: found.index(0)]
    for size in range(len(found) + 1):
        kept = cut_loop(found[:size])
        if kept is not None:
            return found[:kept]
    return found


@torch.inference_mode()
def test_batches_give_what_generate_gives_alone(
    model: GraniteSpeechForConditionalGeneration, prompts: list[Tensor]
) -> None:
    ends = torch.tensor([generated(model, prompt, 64)[5] for prompt in prompts[:1]]).tolist()
    together = decode_greedily(model, prompts, BUDGETS, {0})
    for prompt, budget, found in zip(prompts, BUDGETS, together, strict=True):
        assert found.ids == generated(model, prompt, budget)
        (alone,) = decode_greedily(model, [prompt], [budget], {0})
        assert alone.ids == found.ids
        assert alone.stop_reason == found.stop_reason
        assert alone.probabilities == pytest.approx(found.probabilities, rel=1e-4)
        assert len(found.ids) == len(found.probabilities)
        if found.stop_reason == "length":
            assert len(found.ids) == budget
    (ended,) = decode_greedily(model, prompts[:1], [64], set(ends))
    assert ended.stop_reason == "eos"
    assert ended.ids == generated(model, prompts[0], 64)[: len(ended.ids)]
    assert not set(ended.ids) & set(ends)


@torch.inference_mode()
def test_probabilities_are_those_of_the_scaled_logits(
    model: GraniteSpeechForConditionalGeneration, prompts: list[Tensor]
) -> None:
    """transformers' GraniteForCausalLM divides by logits_scaling; GraniteSpeechForConditionalGeneration does not."""
    plain = GraniteForCausalLM(model.config.text_config).eval()
    plain.model.load_state_dict(model.model.language_model.state_dict())
    plain.lm_head.load_state_dict(model.lm_head.state_dict())
    prompt = prompts[1]
    scaled = plain(inputs_embeds=prompt[None]).logits[0, -1]
    torch.testing.assert_close(model(inputs_embeds=prompt[None]).logits[0, -1], scaled * 8, atol=1e-3, rtol=1e-4)
    (found,) = decode_greedily(model, [prompt], [1], {0})
    assert found.ids == [int(scaled.argmax())]
    assert found.probabilities == pytest.approx([float(scaled.softmax(-1).max())], rel=1e-4)


@torch.inference_mode()
def test_a_runaway_row_is_cut_alone(model: GraniteSpeechForConditionalGeneration, prompts: list[Tensor]) -> None:
    """With budgets beyond the cycle of a tiny model, some rows loop; the others are what they are without them."""
    prompts = prompts[2:6]  # one that goes on to its budget, three that loop
    together = decode_greedily(model, prompts, [400] * len(prompts), {0})
    loops = [row for row, found in enumerate(together) if found.stop_reason == "loop"]
    assert loops
    for row in loops:
        assert cut_loop(together[row].ids) is None
        assert len(together[row].ids) < 400
    for row, prompt in enumerate(prompts):
        (alone,) = decode_greedily(model, [prompt], [400], {0})
        assert (alone.ids, alone.stop_reason) == (together[row].ids, together[row].stop_reason)


@torch.inference_mode()
def test_numbers_that_are_none_are_told(model: GraniteSpeechForConditionalGeneration) -> None:
    with pytest.raises(EngineError, match="not finite"):
        decode_greedily(model, [torch.full((4, 32), torch.nan)], [4], {0})


@given(st.lists(st.integers(1, 900), max_size=40), st.integers(1, 2_000))
def test_groups_hold_every_row_once_and_fit(positions: list[int], most: int) -> None:
    groups = group_rows(positions, most)
    assert sorted(row for group in groups for row in group) == list(range(len(positions)))
    for group in groups:
        assert len(group) == 1 or max(positions[row] for row in group) * len(group) <= most
    longest = [positions[row] for group in groups for row in group]
    assert longest == sorted(longest, reverse=True)
