"""The owner of the device: a loaded Whisper and the one thread that runs it.

The text comes from transformers' own `generate`: the plain one, as Whisper's is for long recordings and takes its settings
from the folder. Prompts of one length decode together, so nothing is padded on the left and no row sees another's tokens.
Probabilities, the doubt whether there is speech at all and word times come from one more pass over the finished text.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.engines.whisper.features import FRAMES
from pipeline.engines.whisper.prompting import Vocabulary, group_equal
from pipeline.engines.whisper.reading import Decoded
from pipeline.engines.whisper_transformers.alignment import Alignment, align
from pipeline.engines.whisper_transformers.checkpoint import Checkpoint
from pipeline.errors import ConfigError, EngineError

if TYPE_CHECKING:
    import torch

_FIRST_TIMESTAMP = 50  # a text starts within its first second, as Whisper's authors hold it to
_LEAST = -20.0  # log probability of a token that a rule, right at its edge, forbids in one of the two passes
_ALIGNED_AT_ONCE = 8  # the attention of all layers is kept: 0.1 GB per row in the largest model


class Clip(NamedTuple):
    """What is asked about a chunk: its language (None: detect it), keywords and task (None: the config's); its mel frames."""

    language: str | None
    keywords: tuple[str, ...]
    frames: int
    task: str | None = None


class Recognizer:
    """A model on its device. `decode` may be called from several threads; the batches run one after the other."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        vocabulary: Vocabulary,
        *,
        device: torch.device,
        dtype: torch.dtype,
        threads: int,
        choices: Collection[str],
        beam_size: int,
        max_new_tokens: int,
        timestamps: bool,
        word_times: bool,
    ) -> None:
        """`choices`: languages that may be detected. Raises ConfigError: the weights do not fit the sizes in config.json."""
        import torch

        self._checkpoint, self._vocabulary, self._device = checkpoint, vocabulary, device
        self._choices = {name: token for name, token in checkpoint.language_tokens.items() if name in choices}
        self._beam_size, self._max_new_tokens = beam_size, max_new_tokens
        self._timestamps, self._word_times = timestamps, word_times
        self._tokens = vocabulary.of("en")
        _check_tokens(self._tokens, checkpoint)
        self._suppressed = [token for token in vocabulary.suppressed() if token is not None]
        self._model = _load_model(folder, checkpoint, dtype, self._tokens.eot).to(device).eval()
        self._owner = ThreadPoolExecutor(1, "whisper", torch.set_num_threads, (threads,))

    def decode(self, features: npt.NDArray[np.float32], clips: Sequence[Clip]) -> list[Decoded]:
        """Log-mels [clips, n_mels, 3000] to what is said in each. Raises EngineError and its kinds."""
        return self._owner.submit(self._run, features, clips).result()

    def close(self) -> None:
        """Finish what is running and give the memory back."""
        self._owner.shutdown()
        del self._model
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _run(self, features: npt.NDArray[np.float32], clips: Sequence[Clip]) -> list[Decoded]:
        import torch

        from pipeline.engines.granite_nar.device import device_errors

        if features.shape[2] != FRAMES:
            raise ValueError(f"features of {features.shape[2]} frames, not {FRAMES}")
        found: dict[int, Decoded] = {}
        with torch.inference_mode(), device_errors():
            mels = torch.from_numpy(features).to(self._device, self._model.dtype)
            encoded = self._model.model.encoder(mels).last_hidden_state
            languages = self._languages(clips, encoded)
            prompts = [
                self._vocabulary.prompt(language, clip.keywords, clip.task)
                for clip, language in zip(clips, languages, strict=True)
            ]
            for rows in group_equal([len(prompt) for prompt in prompts]):
                asked, heard = [prompts[row] for row in rows], encoded[rows]
                texts = self._generate(heard, asked)
                judged = self._judge(heard, asked, texts, [languages[row] for row in rows])
                found.update(zip(rows, judged, strict=True))
            decoded = [found[row] for row in range(len(clips))]
            return self._align(encoded, clips, decoded) if self._word_times else decoded

    def _languages(self, clips: Sequence[Clip], encoded: torch.Tensor) -> list[str]:
        if not self._checkpoint.card.multilingual:
            return ["en"] * len(clips)
        found = [clip.language for clip in clips]
        unknown = [row for row, language in enumerate(found) if language is None]
        if unknown:
            for row, language in zip(unknown, self._detect(encoded[unknown]), strict=True):
                found[row] = language
        return [language for language in found if language is not None]

    def _detect(self, encoded: torch.Tensor) -> list[str]:
        """The likeliest of the languages that may be, by the model's first token after the start."""
        names, numbers = zip(*sorted(self._choices.items()), strict=True)
        hidden, _, _ = self._read_along(encoded, [[self._tokens.sot]] * len(encoded))
        logits = self._model.proj_out(hidden[:, 0])[:, list(numbers)]
        return [names[at] for at in logits.argmax(1).tolist()]

    def _generate(self, encoded: torch.Tensor, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """The tokens after the prompts, which have one length, up to the end token or the budget."""
        import torch
        from transformers import GenerationConfig, GenerationMixin
        from transformers.generation.logits_process import LogitsProcessorList
        from transformers.modeling_outputs import BaseModelOutput

        begin = len(prompts[0])
        # Our own settings in whole: transformers fills what is missing from the model's, which are empty.
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=self._max_new_tokens,
            num_beams=self._beam_size,
            do_sample=False,
            eos_token_id=self._tokens.eot,
            pad_token_id=self._tokens.eot,
            decoder_start_token_id=self._tokens.sot,
        )
        generated = GenerationMixin.generate(
            self._model,
            encoder_outputs=BaseModelOutput(last_hidden_state=encoded),
            attention_mask=torch.ones(encoded.shape[:2], dtype=torch.long, device=self._device),
            decoder_input_ids=torch.tensor(prompts, device=self._device),
            generation_config=settings,
            logits_processor=LogitsProcessorList(self._rules(begin)),
        )
        found = []
        for row in generated[:, begin:].tolist():
            found.append(row[: row.index(self._tokens.eot)] if self._tokens.eot in row else row)
        return found

    def _rules(self, begin: int) -> list[Any]:
        """What may not be written: marks that are no speech, nothing at all, and times that go back."""
        from transformers import GenerationConfig
        from transformers.generation.logits_process import (
            SuppressTokensAtBeginLogitsProcessor,
            SuppressTokensLogitsProcessor,
            WhisperTimeStampLogitsProcessor,
        )

        tokens, device = self._tokens, str(self._device)
        nothing = [tokens.encode(" ")[0], tokens.eot]
        rules: list[Any] = [
            SuppressTokensAtBeginLogitsProcessor(nothing, begin, device=device),
            SuppressTokensLogitsProcessor(self._suppressed, device=device),
        ]
        if self._timestamps:
            times = GenerationConfig(  # type: ignore[no-untyped-call]
                no_timestamps_token_id=tokens.no_timestamps,
                eos_token_id=tokens.eot,
                max_initial_timestamp_index=_FIRST_TIMESTAMP,
            )
            rules.append(WhisperTimeStampLogitsProcessor(times, begin_index=begin))
        return rules

    def _judge(
        self,
        encoded: torch.Tensor,
        prompts: Sequence[Sequence[int]],
        texts: Sequence[Sequence[int]],
        languages: Sequence[str],
    ) -> list[Decoded]:
        """How sure the model is of each text under the same rules (its end token included), and of hearing speech at all."""
        import torch

        begin, rules = len(prompts[0]), self._rules(len(prompts[0]))
        written = [[*text, self._tokens.eot][: self._max_new_tokens] for text in texts]
        read = [[*prompt, *tokens] for prompt, tokens in zip(prompts, written, strict=True)]
        hidden, ids, _ = self._read_along(encoded, read)
        sure = torch.zeros(len(read), device=self._device)
        for at in range(begin, ids.shape[1]):
            logits = self._model.proj_out(hidden[:, at - 1]).float()
            for rule in rules:
                logits = rule(ids[:, :at], logits)
            gained = logits.log_softmax(-1).gather(1, ids[:, at : at + 1])[:, 0]
            goes_on = torch.tensor([at < len(one) for one in read], device=self._device)
            sure += torch.where(goes_on, gained.clamp_min(_LEAST), 0)
        starts = [prompt.index(self._tokens.sot) for prompt in map(list, prompts)]
        first = self._model.proj_out(hidden[range(len(read)), starts]).float().softmax(-1)[:, self._tokens.no_speech]
        found = []
        for row, (total, doubt) in enumerate(zip(sure.tolist(), first.tolist(), strict=True)):
            if not total <= 0.001:  # no comparison holds for what is no number
                raise EngineError(
                    "engine_error", "The model computed numbers that are not finite; set engine.options.dtype=float32."
                )
            found.append(
                Decoded(
                    tokens=tuple(texts[row]),
                    log_prob=min(total / len(written[row]), 0.0),
                    no_speech_prob=doubt,
                    cut_off=len(texts[row]) >= self._max_new_tokens,
                    language=languages[row],
                )
            )
        return found

    def _align(self, encoded: torch.Tensor, clips: Sequence[Clip], decoded: Sequence[Decoded]) -> list[Decoded]:
        """Read every text once more without keywords and times, and watch where the alignment heads look."""
        found = list(decoded)
        spoken = [[token for token in one.tokens if token < self._tokens.eot] for one in decoded]
        rows = [row for row, text in enumerate(spoken) if text]
        for at in range(0, len(rows), _ALIGNED_AT_ONCE):
            part = rows[at : at + _ALIGNED_AT_ONCE]
            starts = [
                [
                    *self._vocabulary.of(decoded[row].language, clips[row].task).sot_sequence,
                    self._tokens.no_timestamps,
                ]
                for row in part
            ]
            read = [[*start, *spoken[row]] for start, row in zip(starts, part, strict=True)]
            hidden, _, attention = self._read_along(encoded[part], read, attend=True)
            for place, row in enumerate(part):
                first, last = len(starts[place]) - 1, len(read[place])
                seen = attention[place][:, first:last, : max(clips[row].frames // 2, 1)]
                logits = self._model.proj_out(hidden[place, first : last - 1]).float()[:, : self._tokens.eot]
                sure = logits.softmax(-1)[range(len(spoken[row])), spoken[row]]
                found[row] = replace(found[row], alignment=Alignment(align(seen), sure.tolist()))
        return found

    def _read_along(
        self, encoded: torch.Tensor, sequences: Sequence[Sequence[int]], *, attend: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor, npt.NDArray[np.float32]]:
        """The decoder over given tokens: hidden states [rows, longest, width], the tokens with padding [rows, longest], and,
        where it is asked for, the attention of the alignment heads [rows, heads, longest, 1500].

        What stands behind a row's last token is padding, which nothing before it can see.
        """
        import torch

        longest = max(map(len, sequences))
        ids = torch.tensor(
            [[*one, *[self._tokens.eot] * (longest - len(one))] for one in sequences], device=self._device
        )
        decoder = self._model.model.decoder
        if not attend:
            hidden = decoder(ids, encoder_hidden_states=encoded, use_cache=False).last_hidden_state
            return hidden, ids, np.empty(0, np.float32)
        self._model.set_attn_implementation("eager")  # the others keep no attention
        try:
            out = decoder(ids, encoder_hidden_states=encoded, use_cache=False, output_attentions=True)
        finally:
            self._model.set_attn_implementation("sdpa")
        heads = [out.cross_attentions[layer][:, head] for layer, head in self._checkpoint.alignment_heads]
        return out.last_hidden_state, ids, torch.stack(heads, 1).float().cpu().numpy()


def _check_tokens(tokens: Any, checkpoint: Checkpoint) -> None:
    """Raises ConfigError for a tokenizer that is not this model's."""
    names = ("sot", "eot", "sot_prev", "no_timestamps", "no_speech")
    size = checkpoint.sizes["vocab_size"]
    for name in names:
        number = getattr(tokens, name)
        if number is None or number >= size:
            raise ConfigError(
                f"The tokenizer.json of {checkpoint.model} has no token {name} that the model knows; "
                "take both files from one revision."
            )


def _load_model(folder: Path, checkpoint: Checkpoint, dtype: torch.dtype, end: int) -> Any:
    """The model out of its checked sizes and its weights alone: no other setting of the folder reaches transformers."""
    from safetensors.torch import load_file
    from transformers import GenerationConfig, WhisperConfig, WhisperForConditionalGeneration
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    sizes: dict[str, Any] = dict(checkpoint.sizes)
    config = WhisperConfig(
        **sizes, bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=end + 1
    )
    load: Any = WhisperForConditionalGeneration.from_pretrained  # its types know nothing of the report
    try:
        tensors = {}
        for name in checkpoint.weights:
            tensors.update(load_file(folder / name))
        model, report = load(
            None,
            config=config,
            state_dict=tensors,
            dtype=dtype,
            attn_implementation="sdpa",
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"The model {checkpoint.model} does not load ({reason}); download it again.") from None
    wrong = sorted(report["missing_keys"])
    if wrong:
        raise ConfigError(f"The weights of {checkpoint.model} lack {wrong[0]}; take all files from one revision.")
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    return model
