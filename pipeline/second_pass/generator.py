"""A causal language model of transformers on its device: prompts in, replies out, each as if it had been asked alone."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engines.granite.decoding import group_rows
from pipeline.engines.granite.repetition import cut_loop
from pipeline.errors import AnswerError, ConfigError, EngineDead, EngineError, EngineOutOfMemory
from pipeline.records import Failure
from pipeline.second_pass.asking import Prompt, Reply
from pipeline.second_pass.checkpoint import LanguageModel
from pipeline.second_pass.prompts import MARKUPS, Pieces
from pipeline.second_pass.tokens import PromptTokenizer

if TYPE_CHECKING:
    import torch


@dataclass(slots=True)
class _Row:
    """One answer as it is written."""

    budget: int
    ids: list[int] = field(default_factory=list)
    stop_reason: str = ""

    def extend(self, token: int, ends: Collection[int]) -> None:
        """Take one more token, and see whether that is the end."""
        if token in ends:
            self.stop_reason = "eos"
            return
        self.ids.append(token)
        kept = cut_loop(self.ids)
        if kept is not None:
            del self.ids[kept:]
            self.stop_reason = "loop"
        elif len(self.ids) >= self.budget:
            self.stop_reason = "length"


class _RowEnds:
    """transformers' stopping criterion: each row ends by itself. [rows, tokens so far] → bool [rows]."""

    def __init__(self, rows: Sequence[_Row], ends: Collection[int]) -> None:
        self._rows, self._ends = rows, ends

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not row.stop_reason:
                row.extend(token, self._ends)
        return input_ids.new_tensor([bool(row.stop_reason) for row in self._rows]).bool()


def _check_numbers(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """transformers' logits processor: changes nothing. Raises EngineError for numbers that are not finite."""
    if not scores.amax(-1).isfinite().all():
        raise EngineError(
            "engine_error", "The model computed numbers that are not finite; set second_pass.dtype=float32."
        )
    return scores


class Generator:
    """A loaded model with its tokenizer, and the one thread that runs it."""

    def __init__(
        self,
        folder: Path,
        described: LanguageModel,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threads: int,
        most_positions: int,
    ) -> None:
        """`most_positions`: of prompts and answers that decode together, padding included. Raises ConfigError."""
        import torch

        self._device, self._most_positions = device, most_positions
        self._model = _load(folder, described.model, dtype).to(device).eval()
        self._tokenizer = PromptTokenizer(folder, described.model, self._model.config)
        self._ends = _end_tokens(self._model, described.model)
        if turn_end := MARKUPS[described.markup].turn_end:
            self._ends |= {self._tokenizer.control_id(turn_end)}
        self._owner = ThreadPoolExecutor(1, "second-pass", torch.set_num_threads, (threads,))

    def count(self, pieces: Pieces) -> int:
        """Tokens of a prompt, or of a part of one."""
        return len(self._tokenizer.start) + self._tokenizer.count(pieces)

    def ask(self, prompts: Sequence[Prompt]) -> list[Reply | Failure]:
        """One reply per prompt, in order. What fails alone is a Failure; raises EngineDead: the device is gone."""
        return self._owner.submit(self._run, prompts).result()

    def close(self) -> None:
        """Finish what is running and give the memory back."""
        self._owner.shutdown()
        del self._model
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _run(self, prompts: Sequence[Prompt]) -> list[Reply | Failure]:
        found: dict[int, Reply | Failure] = {}
        ids: dict[int, list[int]] = {}
        for row, prompt in enumerate(prompts):
            try:
                ids[row] = [*self._tokenizer.start, *self._tokenizer.encode(prompt.pieces)]
            except AnswerError as error:
                found[row] = Failure.of(error)
        budgets = [prompt.budget for prompt in prompts]
        needs = {row: len(tokens) + budgets[row] for row, tokens in ids.items()}
        readable = list(ids)
        groups = group_rows([needs[row] for row in readable], self._most_positions)
        waiting = [[readable[at] for at in group] for group in reversed(groups)]
        while waiting:
            rows = waiting.pop()
            if len(rows) > 1 and needs[rows[0]] * len(rows) > self._most_positions:  # lowered since
                waiting += _halves(rows)
                continue
            try:
                replies = self._generate([ids[row] for row in rows], [budgets[row] for row in rows])
                found.update(zip(rows, replies, strict=True))
            except EngineDead:
                raise
            except EngineError as error:
                if isinstance(error, EngineOutOfMemory) and len(rows) > 1:
                    self._most_positions = max(1, needs[rows[0]] * len(rows) // 2)
                if len(rows) > 1:
                    waiting += _halves(rows)
                else:
                    found[rows[0]] = Failure.of(error)
        return [found[row] for row in range(len(prompts))]

    def _generate(self, prompts: Sequence[Sequence[int]], budgets: Sequence[int]) -> list[Reply]:
        """One batch, padded on the left. Raises EngineError and its kinds."""
        import torch
        from transformers import GenerationConfig, LogitsProcessorList, StoppingCriteriaList

        from pipeline.engines.granite_nar.device import device_errors

        longest = max(map(len, prompts))
        rows = [_Row(budget) for budget in budgets]
        padding = min(self._ends)
        settings: Any = GenerationConfig  # not typed
        greedily = settings(
            max_new_tokens=max(budgets),
            do_sample=False,
            num_beams=1,
            eos_token_id=sorted(self._ends),
            pad_token_id=padding,
        )
        with torch.inference_mode(), device_errors():
            ids = torch.tensor([[padding] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
            mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
            self._model.generate(
                input_ids=ids.to(self._device),
                attention_mask=mask.to(self._device),
                generation_config=greedily,
                logits_processor=LogitsProcessorList([_check_numbers]),
                stopping_criteria=StoppingCriteriaList([_RowEnds(rows, self._ends)]),
            )
        return [
            Reply(self._tokenizer.decode(row.ids), len(prompt), len(row.ids), row.stop_reason)
            for row, prompt in zip(rows, prompts, strict=True)
        ]


def _halves(rows: list[int]) -> list[list[int]]:
    """The longer half last, so that it is popped first."""
    middle = (len(rows) + 1) // 2
    return [rows[middle:], rows[:middle]]


def _end_tokens(model: Any, name: str) -> frozenset[int]:
    for source in (model.generation_config, model.config.get_text_config()):
        found = source.eos_token_id
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    raise ConfigError(f"The JSON files of the model {name} name no end token (eos_token_id); download it again.")


def _load(folder: Path, model: str, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    load: Any = AutoModelForCausalLM.from_pretrained  # its types know nothing of the report
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        found, report = load(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"The model {model} does not load ({reason}); download it again, or take another.") from None
    wrong = sorted([*report["missing_keys"], *report.get("mismatched_keys", ())], key=str)
    if wrong:
        raise ConfigError(f"The weights of {model} lack {wrong[0]}; take all files from one revision.")
    # What the folder asks for (sampling, penalties, suppressed tokens) is not greedy decoding; its end tokens are kept.
    ends = _end_tokens(found, model)
    settings: Any = GenerationConfig  # not typed
    found.generation_config = settings(eos_token_id=sorted(ends))
    return found
