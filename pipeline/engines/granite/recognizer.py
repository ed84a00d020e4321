"""The owner of the device: a loaded model, its tokenizer, and the one thread that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.engines.granite.adapter import ADAPTER_WEIGHTS, Adapter, merge_adapter, without_adapter
from pipeline.engines.granite.checkpoint import TOKENIZER_FILE, Checkpoint
from pipeline.engines.granite.decoding import Decoded, decode_greedily, group_rows
from pipeline.engines.granite.drafting import Draft
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.prompts import MARKS, Version, after_audio, before_audio
from pipeline.engines.granite.speculation import Speculation, read_draft_head, write_drafts
from pipeline.errors import ConfigError
from pipeline.records import Samples

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer


class Question(NamedTuple):
    """A clip, what is asked about it, how many tokens the answer may have, and whether the encoder may draft it."""

    clip: Samples
    instruction: str
    budget: int
    drafted: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote: its text without special tokens, and their mean probability (None without any)."""

    text: str
    confidence: float | None
    n_tokens: int
    stop_reason: str
    n_foretold: int | None = None  # tokens that a draft had right; None: none was tried


class Recognizer:
    """A model on its device. `answer` may be called from several threads; the batches run one after the other."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threads: int,
        most_positions: int,
        version: Version = "4.1",
        speculation: Speculation | None = None,
    ) -> None:
        """`most_positions`: of prompts and answers that decode together, padding included. Raises ConfigError."""
        import torch

        self._device, self._most_positions, self._limit = device, most_positions, checkpoint.positions
        self._model = load_model(folder, checkpoint.model, dtype, adapter=checkpoint.adapter).to(device).eval()
        self._tokenizer = read_tokenizer(folder, checkpoint.model, self._model.config)
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._ends = end_tokens(self._model)
        self._speculation = speculation
        self._ear = Ear(self._model, self._draft_head(folder, checkpoint))
        self._version = version
        self._before = self._encode(before_audio(version))
        self._owner = ThreadPoolExecutor(1, "granite", torch.set_num_threads, (threads,))

    def count_tokens(self, instruction: str) -> int:
        """Positions that an instruction takes in a prompt."""
        return len(self._encode(after_audio(self._version, instruction)))

    def answer(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer per question; the clips are at least 0.1 s long. Raises EngineError and its kinds."""
        return self._owner.submit(self._run, questions).result()

    def close(self) -> None:
        """Finish what is running and give the memory back."""
        self._owner.shutdown()
        del self._model, self._ear
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _run(self, questions: Sequence[Question]) -> list[Answer]:
        import torch

        from pipeline.engines.granite_nar.device import device_errors

        found: dict[int, Decoded] = {}
        with torch.inference_mode(), device_errors():
            heard, drafts = self._listen(questions)
            prompts = [
                self._prompt(audio, question.instruction) for audio, question in zip(heard, questions, strict=True)
            ]
            budgets = [
                min(question.budget, self._limit - len(prompt))
                for prompt, question in zip(prompts, questions, strict=True)
            ]
            needs = [
                len(prompt) + budget + len(draft or ())
                for prompt, budget, draft in zip(prompts, budgets, drafts, strict=True)
            ]
            keep = self._speculation.keep_draft if self._speculation else None
            for rows in group_rows(needs, self._most_positions):
                decoded = decode_greedily(
                    self._model,
                    [prompts[row] for row in rows],
                    [budgets[row] for row in rows],
                    self._ends,
                    [drafts[row] for row in rows],
                    keep,
                )
                found.update(zip(rows, decoded, strict=True))
        return [self._read(found[row], drafts[row] is not None) for row in range(len(questions))]

    def _listen(self, questions: Sequence[Question]) -> tuple[list[torch.Tensor], list[Draft | None]]:
        """Audio embeddings of every clip, and the drafts that are worth a try."""
        clips = [question.clip for question in questions]
        wanted = [question.drafted for question in questions]
        if self._speculation is None or not any(wanted):
            return self._ear.listen(clips), [None] * len(clips)
        heard, labels = self._ear.listen_and_draft(clips)
        return heard, write_drafts(labels, wanted, self._tokenizer, self._speculation)

    def _draft_head(self, folder: Path, checkpoint: Checkpoint) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self._speculation is None or self._speculation.head is None:
            return None
        config = self._model.config
        sizes = (config.encoder_config.hidden_dim, config.get_text_config().vocab_size)
        return read_draft_head(folder / self._speculation.head, checkpoint.model, *sizes)

    def _prompt(self, audio: torch.Tensor, instruction: str) -> torch.Tensor:
        """The embeddings of a whole prompt: [positions, hidden]."""
        import torch

        embed = self._model.get_input_embeddings()
        before, after = (
            embed(torch.tensor(ids, device=self._device))
            for ids in (self._before, self._encode(after_audio(self._version, instruction)))
        )
        return torch.cat([before, audio.to(before.dtype), after])

    def _encode(self, parts: Sequence[str]) -> list[int]:
        return [number for part in parts for number in self._numbers(part)]

    def _numbers(self, part: str) -> list[int]:
        if part not in MARKS:
            ids: list[int] = self._tokenizer.encode(part, add_special_tokens=False).ids
            return ids
        mark = self._tokenizer.token_to_id(part)
        if mark is None:
            raise ConfigError(
                f"The tokenizer.json lacks {part}, which prompts of version {self._version} need; check engine.options.version."
            )
        return [mark]

    def _read(self, decoded: Decoded, drafted: bool) -> Answer:
        kept = [p for token, p in zip(decoded.ids, decoded.probabilities, strict=True) if token not in self._special]
        text = self._tokenizer.decode(decoded.ids, skip_special_tokens=True).strip()
        confidence = sum(kept) / len(kept) if kept and text else None
        return Answer(
            text, confidence, len(kept), decoded.stop_reason, min(decoded.foretold, len(kept)) if drafted else None
        )


def read_tokenizer(folder: Path, model: str, config: Any) -> Tokenizer:
    """The tokenizer, for which the words of a row are never special tokens. Raises ConfigError."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
    except Exception as error:  # noqa: BLE001 - the library raises plain Exceptions
        raise ConfigError(f"The tokenizer.json of {model} cannot be read ({error}); download it again.") from None
    if tokenizer.get_vocab_size(with_added_tokens=True) > config.get_text_config().vocab_size:
        raise ConfigError(
            f"The tokenizer.json of {model} has more tokens than the model; take both files from one revision."
        )
    tokenizer.encode_special_tokens = True
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def end_tokens(model: Any) -> frozenset[int]:
    """The tokens that end an answer. Raises ConfigError: none is named."""
    for source in (model.generation_config, model.config.get_text_config()):
        found = source.eos_token_id
        if found is not None:
            return frozenset([found] if isinstance(found, int) else found)
    raise ConfigError(
        "The model's config.json and generation_config.json name no end token (eos_token_id); download it again."
    )


def load_model(
    folder: Path,
    model: str,
    dtype: torch.dtype,
    kind: str = "GraniteSpeechForConditionalGeneration",
    adapter: Adapter | None = None,
) -> Any:
    """A model of the class `kind` of transformers, complete, with its adapter merged. Raises ConfigError."""
    if adapter is not None:
        with without_adapter(folder) as base:
            found = load_model(base, model, dtype, kind)
        merge_adapter(found.model.language_model, folder / ADAPTER_WEIGHTS, adapter, model)
        return found
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    load: Any = getattr(transformers, kind).from_pretrained
    try:
        found, report = load(
            folder,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"The model {model} does not load ({reason}); download it again.") from None
    wrong = sorted(name for name in report["missing_keys"] if not name.endswith("num_batches_tracked"))
    if wrong:
        raise ConfigError(f"The weights of {model} lack {wrong[0]}; take all files from one revision.")
    return found
