"""Greedy decoding of many prompts at once, each as if alone: left padding under a mask, positions from each prompt's own start.

Rows end one by one: at the model's end token, at their own token budget, or where they go round in a circle.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

_SHRINK_BELOW = 0.75  # share of rows that still go on under which the others are taken out: that copies the cache


@dataclass(slots=True)
class Decoded:
    """One row: its tokens, without the end token, and the probability that the model gave to each."""

    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    stop_reason: Literal["", "eos", "length", "loop"] = ""


def group_rows(positions: Sequence[int], most_positions: int) -> list[list[int]]:
    """Which rows decode together: longest first, as many as fit padded to the longest; a row that alone is too long, alone.

    `positions`: what each row may come to need, prompt and budget.
    """
    groups: list[list[int]] = []
    for row in sorted(range(len(positions)), key=lambda row: -positions[row]):
        if groups and positions[groups[-1][0]] * (len(groups[-1]) + 1) <= most_positions:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def decode_greedily(
    model: Any, prompts: Sequence[Tensor], budgets: Sequence[int], ends: Collection[int]
) -> list[Decoded]:
    """Decode prompts of embeddings ([positions, hidden] each) with a GraniteSpeechForConditionalGeneration.

    `budgets`: most tokens of each row, at least 1. `ends`: the end tokens. Raises EngineError: numbers that are not finite.
    """
    import torch
    from transformers import DynamicCache

    text_config = model.config.get_text_config()
    language_model, embed = model.model.language_model, model.get_input_embeddings()
    embeddings, mask = _pad_left(prompts)
    position = (mask.cumsum(1) - 1).clamp_min(0)
    cache = DynamicCache(config=text_config)
    found = [Decoded() for _ in prompts]
    rows = list(range(len(prompts)))  # of the batch on the device
    while True:
        hidden = language_model(
            inputs_embeds=embeddings,
            attention_mask=mask,
            position_ids=position,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, -1]
        # transformers' forward leaves this division out, which makes probabilities out of logits far too sure.
        logits = model.lm_head(hidden).float() / text_config.logits_scaling
        best, ids = logits.max(-1)
        certainty = (best - logits.logsumexp(-1)).exp()
        for row, token, probability in zip(rows, ids.tolist(), certainty.tolist(), strict=True):
            if not found[row].stop_reason:
                _extend(found[row], token, probability, budgets[row], ends)
        live = [at for at, row in enumerate(rows) if not found[row].stop_reason]
        if not live:
            return found
        if len(live) < _SHRINK_BELOW * len(rows):
            rows = [rows[at] for at in live]
            kept = torch.tensor(live, device=mask.device)
            cache.batch_select_indices(kept)
            mask, position, ids = mask[kept], position[kept], ids[kept]
        embeddings = embed(ids)[:, None]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        position = position[:, -1:] + 1


def _extend(row: Decoded, token: int, probability: float, budget: int, ends: Collection[int]) -> None:
    """Add a token to a row, and say so where that ends it."""
    if not 0 <= probability <= 1.001:  # no comparison holds for what is no number
        raise EngineError(
            "engine_error", "The model computed numbers that are not finite; set engine.options.dtype=float32."
        )
    if token in ends:
        row.stop_reason = "eos"
        return
    row.ids.append(token)
    row.probabilities.append(min(probability, 1.0))
    kept = cut_loop(row.ids)
    if kept is not None:
        del row.ids[kept:], row.probabilities[kept:]
        row.stop_reason = "loop"
    elif len(row.ids) >= budget:
        row.stop_reason = "length"


def _pad_left(prompts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Embeddings [rows, longest, hidden] and their mask [rows, longest]."""
    import torch

    longest = max(map(len, prompts))
    embeddings = prompts[0].new_zeros(len(prompts), longest, prompts[0].shape[-1])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long, device=embeddings.device)
    for row, prompt in enumerate(prompts):
        embeddings[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = 1
    return embeddings, mask
