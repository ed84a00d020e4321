"""The owner of the device: a loaded Plus model, its tokenizer, and the one thread that runs them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pipeline.engines.granite.checkpoint import Checkpoint
from pipeline.engines.granite.decoding import Decoded, decode_greedily, group_rows
from pipeline.engines.granite.listening import Ear
from pipeline.engines.granite.recognizer import end_tokens, load_model, read_tokenizer
from pipeline.engines.granite_plus.dictation import Piece, Reply, audio_positions
from pipeline.engines.granite_plus.prompts import BEFORE_AUDIO, MARKS, after_audio
from pipeline.errors import ConfigError
from pipeline.records import Samples

if TYPE_CHECKING:
    import torch

_KIND = "GraniteSpeechPlusForConditionalGeneration"
_SPACE = "Ġ"  # how byte-level tokens write the space that begins a word


class Question(NamedTuple):
    """A clip of at least 0.1 s, what is asked about it, the text to continue, and the longest answer in tokens."""

    clip: Samples
    instruction: str
    prefix: str
    budget: int


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
    ) -> None:
        """`most_positions`: of prompts and answers that decode together, padding included. Raises ConfigError."""
        import torch

        self._device, self._most_positions = device, most_positions
        self._model = load_model(folder, checkpoint.model, dtype, _KIND).to(device).eval()
        self._tokenizer = read_tokenizer(folder, checkpoint.model, self._model.config)
        self._marks = {mark: self._number(mark, checkpoint.model) for mark in MARKS}
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)
        self._ends = end_tokens(self._model)
        self._ear = Ear(self._model)
        self._owner = ThreadPoolExecutor(1, "granite-plus", torch.set_num_threads, (threads,))

    def count_tokens(self, text: str) -> int:
        """Positions that text takes in a prompt."""
        return len(self._encode((text,)))

    def prompt_positions(self, instruction: str) -> int:
        """Positions of a prompt beside the audio and the text to continue."""
        return len(self.prompt_ids(instruction)[0]) + len(self.prompt_ids(instruction)[1])

    def prompt_ids(self, instruction: str, prefix: str = "") -> tuple[list[int], list[int]]:
        """The tokens before and behind the audio."""
        return self._encode(BEFORE_AUDIO), self._encode(after_audio(instruction, prefix))

    def answer(self, questions: Sequence[Question]) -> list[Reply]:
        """One reply per question. Raises EngineError and its kinds."""
        return self._owner.submit(self._run, questions).result()

    def close(self) -> None:
        """Finish what is running and give the memory back."""
        self._owner.shutdown()
        del self._model, self._ear
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _run(self, questions: Sequence[Question]) -> list[Reply]:
        import torch

        from pipeline.engines.granite_nar.device import device_errors

        found: dict[int, Decoded] = {}
        with torch.inference_mode(), device_errors():
            for rows in group_rows(list(map(self._positions, questions)), self._most_positions):
                group = [questions[row] for row in rows]
                heard = self._ear.listen([question.clip for question in group])
                prompts = [self._prompt(audio, question) for audio, question in zip(heard, group, strict=True)]
                decoded = decode_greedily(self._model, prompts, [question.budget for question in group], self._ends)
                found.update(zip(rows, decoded, strict=True))
        return [self._read(found[row]) for row in range(len(questions))]

    def _positions(self, question: Question) -> int:
        """What a question and its answer may take."""
        before, after = self.prompt_ids(question.instruction, question.prefix)
        return len(before) + audio_positions(len(question.clip)) + len(after) + question.budget

    def _prompt(self, audio: torch.Tensor, question: Question) -> torch.Tensor:
        """The embeddings of a whole prompt: [positions, hidden]."""
        import torch

        embed = self._model.get_input_embeddings()
        ids = self.prompt_ids(question.instruction, question.prefix)
        before, after = (embed(torch.tensor(part, device=self._device)) for part in ids)
        return torch.cat([before, audio.to(before.dtype), after])

    def _number(self, mark: str, model: str) -> int:
        found: int | None = self._tokenizer.token_to_id(mark)
        if found is None:
            raise ConfigError(f"The tokenizer.json of {model} lacks {mark}; download it again.")
        return found

    def _encode(self, parts: Sequence[str]) -> list[int]:
        return [number for part in parts for number in self._numbers(part)]

    def _numbers(self, part: str) -> list[int]:
        if part in MARKS:
            return [self._marks[part]]
        ids: list[int] = self._tokenizer.encode(part, add_special_tokens=False).ids
        return ids

    def _read(self, decoded: Decoded) -> Reply:
        pieces = list(self._pieces(decoded))
        texts = self._tokenizer.decode_batch([[token for token, _ in piece] for piece in pieces])
        means = [sum(probability for _, probability in piece) / len(piece) for piece in pieces]
        found = [Piece(text, mean) for text, mean in zip(texts, means, strict=True)]
        return Reply(found, sum(map(len, pieces)), decoded.stop_reason)

    def _pieces(self, decoded: Decoded) -> Iterator[list[tuple[int, float]]]:
        """The tokens with their probabilities, cut before those that begin with a space: no letter lies across a cut."""
        number = 0

        def piece_of(one: tuple[int, float]) -> int:
            nonlocal number
            number += str(self._tokenizer.id_to_token(one[0])).startswith(_SPACE)
            return number

        said = zip(decoded.ids, decoded.probabilities, strict=True)
        for _, piece in groupby((one for one in said if one[0] not in self._special), piece_of):
            yield list(piece)
