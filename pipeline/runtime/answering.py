"""The second pass in one process, and what its worker holds: a model, the run's texts, a store. No Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from pipeline.config import RunConfig
from pipeline.engines.cores import usable_cores
from pipeline.errors import ConfigError, EngineDead, EngineError, RunBrokenOffError
from pipeline.records import Undone
from pipeline.runtime.workers import undone
from pipeline.second_pass.answers import PassIdentity, answers_table, encode_answers
from pipeline.second_pass.asking import Asker
from pipeline.second_pass.book import PlanReader
from pipeline.second_pass.checkpoint import read_language_model, second_pass_words
from pipeline.second_pass.prompts import Wording
from pipeline.second_pass.texts import TextReader
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import publish_part


@dataclass(frozen=True, slots=True)
class PassAssignment:
    """Everything a worker must know about the pass."""

    config: RunConfig
    identity: PassIdentity
    run_uri: str
    pass_uri: str


@dataclass(frozen=True, slots=True)
class AnswerReceipt:
    """What comes back to the driver for a shard: a few numbers."""

    shard_id: str
    outcome: Literal["won", "exists"]  # exists: another attempt had published it
    rows: int
    n_tokens: int


class Answerer:
    """Shard entries in, receipts out: reads the texts, asks the model, publishes the answers."""

    def __init__(self, assignment: PassAssignment) -> None:
        """Loads the model. Raises ConfigError, EngineDead."""
        config = assignment.config
        self._assignment = assignment
        self._store = ObjectStore(assignment.pass_uri, config.store)
        self._plan = PlanReader(self._store)
        self._texts = TextReader(ObjectStore(assignment.run_uri, config.store))
        self._load()

    def _load(self) -> None:
        from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype

        section = self._assignment.config.second_pass
        with second_pass_words():
            check_libraries("second-pass", ("torch", "safetensors", "tokenizers", "transformers"), "granite")
            device = choose_device(section.device)
        from pipeline.engines.granite_nar.device import device_errors
        from pipeline.second_pass.generator import Generator

        files, model = read_language_model(section)
        with second_pass_words():
            folder = files.fetch(model.files)
        try:
            with device_errors():
                self._generator = Generator(
                    folder,
                    model,
                    device=device,
                    dtype=choose_dtype(section.dtype, device),
                    threads=section.threads or usable_cores(),
                    most_positions=section.batch_tokens,
                )
        except EngineDead:
            raise
        except EngineError as error:
            raise ConfigError(f"The model {model.model} does not run on {device}: {error.message}") from None
        context = model.context or section.context_tokens
        wording, count = Wording.of(section), self._generator.count
        self._asker = Asker(section, wording, model.markup, context, count, self._generator.ask)

    def answer(self, shard_id: str, plan_key: str, row_group: int, source_snapshot: int) -> AnswerReceipt | Undone:
        """Answer and publish one shard. Raises EngineDead: this process cannot go on."""
        try:
            planned = self._plan.rows(shard_id, plan_key, row_group)
            texts = self._texts.read(planned)
            rows = zip(texts, [row["digest"] for row in planned], self._asker.answer(texts), strict=True)
            table = answers_table(list(rows), self._assignment.identity, shard_id, source_snapshot)
            won = publish_part(self._store, shard_id, encode_answers(table))
            n_tokens = sum(table["n_tokens"].to_pylist())
            return AnswerReceipt(shard_id, "won" if won else "exists", table.num_rows, n_tokens)
        except EngineDead:
            raise
        except Exception as error:  # noqa: BLE001 - a shard that breaks a step must not end the pass
            return undone(shard_id, "answer", error)

    def close(self) -> None:
        """Give the model's memory back."""
        self._generator.close()


def answer_shards(todo: pa.Table, assignment: PassAssignment) -> Iterator[AnswerReceipt | Undone]:
    """Answer every entry of `todo` in this process; a receipt for each as it is done.

    Raises RunError when the model cannot be had, RunBrokenOffError when it dies: there is no other process to go on with.
    """
    try:
        answerer = Answerer(assignment)
        try:
            for entry in todo.select(["shard_id", "plan_key", "row_group", "source_snapshot"]).to_pylist():
                yield answerer.answer(**entry)
        finally:
            answerer.close()
    except EngineDead as error:
        raise RunBrokenOffError(f"The model died ({error}); the same command resumes.") from error
