"""The granite-nar engine: chunks in, hypotheses out. Finds the model, describes it, and drives the device loop.

Batches are packed without padding. Two threads may call `transcribe`: while one's batch is on the device, the other packs,
collapses and decodes. Imports the model code late: `describe` needs none of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from pipeline.config import EngineConfig, Section
from pipeline.engines.audible import is_audible
from pipeline.engines.base import EngineSpec, primary_language
from pipeline.engines.cores import usable_cores
from pipeline.engines.granite_nar.checkpoint import match, parse_header
from pipeline.engines.granite_nar.config import ModelConfig, read_config
from pipeline.engines.model_files import ModelFiles, find_model
from pipeline.engines.options import check_device, read_options
from pipeline.engines.torch_device import check_libraries, choose_device, choose_dtype, loading
from pipeline.errors import ConfigError
from pipeline.records import SAMPLE_RATE_HZ, ChunkAudio, Hypothesis

if TYPE_CHECKING:
    from pipeline.engines.granite_nar.device import DeviceLoop, Heard
    from pipeline.engines.granite_nar.model import Model
    from pipeline.engines.granite_nar.reading import TokenReader

logger = logging.getLogger(__name__)

LANGUAGES = frozenset({"en", "fr", "de", "es", "pt"})
MAX_CHUNK_S = 30.0  # quality falls beyond (granite.md §1.6), long before the editor's 4096 positions are full
PUBLISHED_RTFX = 2079.0  # of the published code on one H200 (Open ASR leaderboard, July 2026): for cost estimates
_WEIGHTS, _CONFIG, _TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
_MAX_CONFIG_BYTES, _MAX_TOKENIZER_BYTES = 2**20, 64 * 2**20  # published: 2 kB and 7 MB
_ROUND_FRAMES = 256  # on an accelerator: few shapes, and whole tiles for its products
_WARM_UP_S = (3.0, 12.0)  # two sizes: what torch.compile took for fixed shows here and not in a run


class GraniteNarOptions(Section):
    """`engine.options` of the granite-nar engine."""

    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto", description="auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU"
    )
    attention: Literal["auto", "flash", "varlen", "flex", "sdpa"] = Field(
        "auto", description="kernel of the editor's attention; auto: the first of flash, varlen, sdpa that can run"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="torch.compile; auto: on an accelerator, and without it where it fails"
    )
    word_confidence: bool = Field(True, description="words with a confidence each (and no times: the model gives none)")
    keep_draft_mean: float | None = Field(
        None, gt=0, le=1, description="chunks whose draft is as sure as this on average skip the editor; null: none do"
    )
    keep_draft_token: float = Field(0.75, ge=0, le=1, description="… and whose every token is as sure as this")


class GraniteNar:
    """Granite Speech 4.1 2B-NAR. `transcribe` may be called from several threads."""

    def __init__(self, config: EngineConfig) -> None:
        self.spec = self.describe(config)
        self._config = config
        self._options = read_options(GraniteNarOptions, config)
        self._language = primary_language(config.language) if config.language else None
        self._model: Model | None = None
        self._loop: DeviceLoop | None = None
        self._reader: TokenReader | None = None

    @staticmethod
    def describe(config: EngineConfig) -> EngineSpec:
        """Declare from the model's config.json and the header of its weights. Raises ConfigError."""
        read_options(GraniteNarOptions, config)
        check_device(config)
        files = find_model(config.model, config.storage_options)
        _check_files(files)
        return EngineSpec(
            name="granite-nar",
            model=config.model,
            revision=config.revision or files.revision(_WEIGHTS),
            languages=LANGUAGES,
            tasks=frozenset({"transcribe"}),
            features=frozenset({"confidence"}),
            max_chunk_s=MAX_CHUNK_S,
            padding="none",
            rtfx_per_worker=PUBLISHED_RTFX,
            licence="Apache-2.0",
        )

    def load(self) -> None:
        """Fetch, verify and load the weights, and warm up. Raises ConfigError, EngineDead."""
        check_libraries("granite-nar", ("torch", "safetensors", "tokenizers"), "nar")
        from pipeline.engines.granite_nar.attention import choose_backend
        from pipeline.engines.granite_nar.loading import load_weights, read_json
        from pipeline.engines.granite_nar.model import Model
        from pipeline.engines.granite_nar.reading import TokenReader

        device = choose_device(self._config.device)
        dtype = choose_dtype(self._options.dtype, device)
        backend = choose_backend(self._options.attention, device, dtype)
        folder = find_model(self._config.model, self._config.storage_options).fetch([_CONFIG, _WEIGHTS, _TOKENIZER])
        vocabulary = read_config(read_json(folder / _CONFIG)).editor.vocabulary
        self._reader = TokenReader(folder / _TOKENIZER, vocabulary)  # first: it is done in no time
        weights, config, labels = load_weights(folder, dtype=dtype, device=device)
        wanted = self._options.compile
        may_fail = wanted == "auto" and device.type == "cuda"
        try:
            self._start(Model(weights, config, labels, backend=backend, compiled=may_fail or wanted == "on"))
        except Exception as error:  # compilers raise what they like; a device that is gone fails again below
            if not may_fail:
                raise
            logger.warning("torch.compile failed (%s); going on without it, slower", error, exc_info=error)
            self._start(Model(weights, config, labels, backend=backend))

    def transcribe(self, chunks: Sequence[ChunkAudio]) -> list[Hypothesis]:
        """One hypothesis per chunk. Raises ValueError for a chunk over 30 s, EngineOutOfMemory, EngineDead, EngineError."""
        longest_s = max((chunk.audio_s for chunk in chunks), default=0.0)
        if longest_s > MAX_CHUNK_S:
            raise ValueError(f"a chunk of {longest_s:.2f} s is longer than {MAX_CHUNK_S} s")
        languages = [chunk.language or self._language for chunk in chunks]
        found = [Hypothesis("", language, stop_reason="silence") for language in languages]
        rows = [row for row, chunk in enumerate(chunks) if is_audible(chunk.samples)]
        if rows:
            heard = self._hear([chunks[row].samples for row in rows], [languages[row] for row in rows])
            for row, hypothesis in zip(rows, heard, strict=True):
                found[row] = hypothesis
        return found

    def close(self) -> None:
        """Give the weights' memory back."""
        if self._loop is not None:
            self._loop.close()
        self._loop = self._model = None

    def _start(self, model: Model) -> None:
        """Raises ConfigError where the model does not run here, EngineDead."""
        from pipeline.engines.granite_nar.device import DeviceLoop, edit_all
        from pipeline.engines.granite_nar.routing import keep_sure_drafts

        mean = self._options.keep_draft_mean
        policy = edit_all if mean is None else keep_sure_drafts(mean, self._options.keep_draft_token)
        self._model = model
        self._loop = DeviceLoop(model, policy, threads=self._config.threads or usable_cores())
        with loading(self.spec.model, model.device, self.close):
            self._warm_up()

    def _hear(self, clips: list[Any], languages: list[str | None]) -> list[Hypothesis]:
        from pipeline.engines.granite_nar.device import device_errors

        assert self._model is not None
        assert self._loop is not None
        assert self._reader is not None
        with device_errors():
            batch = self._model.pack(clips, round_to=_ROUND_FRAMES if self._model.device.type == "cuda" else 1)
            heard = self._loop.hear(batch)
            tokens, edited = _tokens(heard, self._model)
        readings = self._reader.read(tokens, words=self._options.word_confidence)
        return [
            Hypothesis(
                reading.text,
                language,
                reading.confidence,
                n_tokens=len(ids),
                stop_reason="single_pass" if was_edited else "draft",
                words=reading.words,
            )
            for reading, language, (ids, _), was_edited in zip(readings, languages, tokens, edited, strict=True)
        ]

    def _warm_up(self) -> None:
        noise = np.random.default_rng(0)
        for length_s in _WARM_UP_S:
            clips = [noise.integers(-3000, 3000, int(part * SAMPLE_RATE_HZ), np.int16) for part in (length_s, 1.0)]
            self._hear(clips, [None, None])


def _tokens(heard: Heard, model: Model) -> tuple[list[tuple[Any, Any]], list[bool]]:
    """Ids and posteriors of every clip, and whether the editor made them; waits for the device."""
    found = list(zip(heard.drafts.split(), heard.drafts.split_probabilities(), strict=True))
    edited = [False] * len(found)
    if heard.edited is not None:
        final = model.tokens(heard.edited)
        for clip, ids, probabilities in zip(heard.plan.clips, final.split(), final.split_probabilities(), strict=True):
            found[clip], edited[clip] = (ids, probabilities), True
    return found, edited


def _check_files(files: ModelFiles) -> None:
    """Whether the model is one of ours, from its small files alone."""
    names = files.names()
    missing = [name for name in (_CONFIG, _WEIGHTS, _TOKENIZER) if name not in names]
    if missing:
        raise ConfigError(
            f"The model {files.model} lacks {', '.join(missing)}; "
            "take the folder of ibm-granite/granite-speech-4.1-2b-nar as it is published."
        )
    for name, most_bytes in ((_CONFIG, _MAX_CONFIG_BYTES), (_TOKENIZER, _MAX_TOKENIZER_BYTES)):
        if files.size_bytes(name) > most_bytes:
            raise ConfigError(
                f"The {name} of {files.model} has {files.size_bytes(name)} bytes, which no published one comes near; "
                "download the model again."
            )
    try:
        settings = json.loads((files.fetch([_CONFIG]) / _CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The config.json of {files.model} cannot be read ({error}); download it again.") from None
    config = read_config(settings)
    if config.editor.max_positions < longest_edit(config):
        raise ConfigError(
            f"The model {files.model} has {config.editor.max_positions} positions, and a chunk of {MAX_CHUNK_S:.0f} s may need "
            f"{longest_edit(config)}; take another model."
        )
    weights = f"{files.model}/{_WEIGHTS}"
    match(
        parse_header(lambda n_bytes: files.fetch_head(_WEIGHTS, n_bytes), files.size_bytes(_WEIGHTS), weights), config
    )


def longest_edit(config: ModelConfig) -> int:
    """Positions of the editor that the longest chunk may need: its audio, and a token for every label of the draft."""
    frames = int(MAX_CHUNK_S * 50)
    slots = max(2 * -(-frames // config.encoder.pooling_window) + 1, config.min_slots)
    return frames // config.projector.downsample + slots
