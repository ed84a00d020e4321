"""Greedy decoding of many prompts at once, each as if alone: left padding under a mask, positions from each prompt's own start.

Rows end one by one: at the model's end token, at their own token budget, or where they go round in a circle. A row may have a
draft: guesses are computed together with what is sure, and kept as far as the model would have written them, so that a pass
gives several tokens and the tokens are the same.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pipeline.engines.granite.drafting import Draft
from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor

_SHRINK_BELOW = 0.75  # share of rows that still go on under which the others are taken out: that copies the cache
_SLICE_ELEMENTS = 2**27  # logits at once: half a GiB in float32


@dataclass(slots=True)
class Decoded:
    """One row: its tokens, without the end token, and the probability that the model gave to each."""

    ids: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    stop_reason: Literal["", "eos", "length", "loop", "draft"] = ""
    foretold: int = 0  # tokens of `ids` that a draft had right


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
    model: Any,
    prompts: Sequence[Tensor],
    budgets: Sequence[int],
    ends: Collection[int],
    drafts: Sequence[Draft | None] | None = None,
    keep_draft: float | None = None,
) -> list[Decoded]:
    """Decode prompts of embeddings ([positions, hidden] each) with a GraniteSpeechForConditionalGeneration.

    `budgets`: most tokens of each row, at least 1. `ends`: the end tokens. `drafts`: guesses at what each row will be (None: no
    guess); they change the number of passes, never the tokens. `keep_draft`: but a whole draft, each of whose tokens has at
    least this probability, becomes the row's text as it is (`stop_reason` "draft"). Raises EngineError: numbers that are not
    finite.
    """
    found = [Decoded() for _ in prompts]
    rows = [_Row(*each) for each in zip(found, budgets, drafts or [None] * len(found), strict=True)]
    batch = _Batch(model, prompts)
    while True:
        for row in rows:
            row.propose()
        hidden = batch.run(rows)
        live = [at for at, row in enumerate(rows) if not row.found.stop_reason]
        for at, readings in zip(live, _read(model, hidden, rows, live), strict=True):
            rows[at].take(readings, ends, keep_draft)
        live = [at for at in live if not rows[at].found.stop_reason]
        if not live:
            return found
        batch.drop_wrong([row.kept for row in rows])
        if len(live) < _SHRINK_BELOW * len(rows):
            rows = [rows[at] for at in live]
            batch.select(live)


class _Reading(NamedTuple):
    """What the model says behind one position: its token, that one's probability, and that of the proposed token."""

    token: int
    probability: float
    proposed: float


@dataclass(slots=True)
class _Row:
    """A row of the batch on the device."""

    found: Decoded
    budget: int
    draft: Draft | None
    proposed: tuple[int, ...] = ()  # behind its last sure token, in the pass that runs
    kept: int = 0  # of them, in the last pass

    def propose(self) -> None:
        """Choose what the next pass computes beside the last token."""
        self.proposed, self.kept = (), 0
        if self.draft is not None and not self.found.stop_reason:
            self.proposed = self.draft.propose(self.budget - len(self.found.ids) - 1)

    def take(self, readings: Sequence[_Reading], ends: Collection[int], keep_draft: float | None) -> None:
        """Take the proposed tokens as far as they are the model's own, and its own one behind them."""
        found = self.found
        if keep_draft is not None and self._is_draft_sure(readings, keep_draft):
            for token, reading in zip(self.proposed, readings, strict=False):
                if not found.stop_reason:
                    _extend(found, token, reading.proposed, self.budget, ends)
            found.stop_reason, found.foretold = found.stop_reason or "draft", len(found.ids)
            return
        for place, reading in enumerate(readings):
            _extend(found, reading.token, reading.probability, self.budget, ends)
            right = place < len(self.proposed) and reading.token == self.proposed[place]
            found.foretold = min(found.foretold + right, len(found.ids))
            if found.stop_reason:
                return
            if not right:
                break
            self.kept += 1
        if self.draft is not None:
            self.draft.learn(len(self.proposed), self.kept, found.ids[-1])

    def _is_draft_sure(self, readings: Sequence[_Reading], least: float) -> bool:
        whole = not self.found.ids and self.draft is not None and 0 < len(self.draft) == len(self.proposed)
        return whole and all(reading.proposed >= least for reading in readings[:-1])


class _Batch:
    """The rows on the device: the cache of the language model and which of its columns are a row's own.

    A row's columns are the last ones without a gap, as proposed tokens that were wrong are taken out after every pass.
    """

    def __init__(self, model: Any, prompts: Sequence[Tensor]) -> None:
        from transformers import DynamicCache

        self._model, self._embed = model.model.language_model, model.get_input_embeddings()
        self._cache: Any = DynamicCache(config=model.config.get_text_config())
        self._prompts: Sequence[Tensor] = prompts  # until the first pass
        self._mask = prompts[0].new_zeros(len(prompts), 0).long()  # [rows, columns]
        self._width = 0  # of the last pass: proposed tokens of the row with most

    def run(self, rows: Sequence[_Row]) -> Tensor:
        """One pass; the model's output behind the last sure token and each proposed one: [rows, 1 + width, hidden]."""
        import torch

        self._width = max(len(row.proposed) for row in rows)
        tokens = [[*row.found.ids[-1:], *row.proposed] for row in rows]  # no token yet: the prompt is what is sure
        embeddings, mask = self._pad_right(tokens)
        if self._prompts:
            before, taken = _pad_left(self._prompts)
            embeddings, mask = torch.cat([before, embeddings], 1), torch.cat([taken, mask], 1)
            self._prompts = ()
        known = self._mask.sum(1, keepdim=True)
        self._mask = torch.cat([self._mask, mask], 1)
        hidden: Tensor = self._model(
            inputs_embeds=embeddings,
            attention_mask=self._mask,
            position_ids=(known + mask.cumsum(1) - 1).clamp_min(0),
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state
        return hidden[:, -1 - self._width :]

    def drop_wrong(self, kept: Sequence[int]) -> None:
        """Take out of the cache what was proposed in the last pass, but for so many tokens of each row."""
        import torch

        if all(count == self._width for count in kept):
            return
        places = torch.arange(self._width, device=self._mask.device)
        self._mask[:, -self._width :] *= places < torch.tensor(kept, device=places.device)[:, None]
        order = self._mask.argsort(dim=1, stable=True)[:, -int(self._mask.sum(1).max()) :]
        self._mask = self._mask.gather(1, order)
        for layer in self._cache.layers:
            index = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone."""
        import torch

        kept = torch.tensor(rows, device=self._mask.device)
        self._cache.batch_select_indices(kept)
        self._mask = self._mask[kept]

    def _pad_right(self, tokens: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        """Embeddings [rows, longest, hidden] and their mask [rows, longest]."""
        import torch

        longest = max(map(len, tokens))
        padded = [[*line, *[0] * (longest - len(line))] for line in tokens]
        taken = [[1] * len(line) + [0] * (longest - len(line)) for line in tokens]
        ids, mask = (torch.tensor(table, dtype=torch.long, device=self._mask.device) for table in (padded, taken))
        return self._embed(ids), mask


def _read(model: Any, hidden: Tensor, rows: Sequence[_Row], live: Sequence[int]) -> list[list[_Reading]]:
    """What the model says in some rows: behind the last sure token and each proposed one."""
    import torch

    places = [(at, place) for at in live for place in range(1 + len(rows[at].proposed))]
    asked = [token for at in live for token in (*rows[at].proposed, 0)]
    where, wanted = (torch.tensor(table, device=hidden.device) for table in (places, asked))
    states = hidden[where[:, 0], where[:, 1]]
    scale = model.config.get_text_config().logits_scaling
    found: list[_Reading] = []
    size = max(1, _SLICE_ELEMENTS // model.lm_head.out_features)
    for part, tokens in zip(states.split(size), wanted.split(size), strict=True):
        # transformers' forward leaves this division out, which makes probabilities out of logits far too sure.
        logits = model.lm_head(part).float() / scale
        total = logits.logsumexp(-1)
        best, ids = logits.max(-1)
        certain, proposed = ((one - total).exp() for one in (best, logits.gather(1, tokens[:, None])[:, 0]))
        found += map(_Reading, ids.tolist(), certain.tolist(), proposed.tolist())
    readings = iter(found)
    return [[next(readings) for _ in range(1 + len(rows[at].proposed))] for at in live]


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
