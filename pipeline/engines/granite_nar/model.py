"""The whole model over one packed batch, in two halves with the host between them.

    begin   features → encoder → draft labels and audio embeddings      (labels travel to the host)
    edit    audio embeddings and draft tokens → editor → final labels   (labels travel to the host)

Both only queue work on an accelerator; `Arriving.wait` is where the host waits. The draft's length decides the size of the
editor's row, so there must be one wait in the middle; `device.DeviceLoop` hides it behind the neighbouring batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pipeline.engines.granite_nar.attention as attention
import pipeline.engines.granite_nar.draft as draft
import pipeline.engines.granite_nar.editor as editor
import pipeline.engines.granite_nar.encoder as encoder
import pipeline.engines.granite_nar.projector as projector
from pipeline.engines.granite_nar.attention import Backend
from pipeline.engines.granite_nar.collapse import Floats, Tokens, collapse
from pipeline.engines.granite_nar.config import ModelConfig
from pipeline.engines.granite_nar.features import LogMel
from pipeline.engines.granite_nar.packing import (
    EditPacking,
    FramePacking,
    Ints,
    Samples,
    frames_of,
    pack_edit,
    pack_frames,
    pack_samples,
    row_samples,
)
from pipeline.engines.granite_nar.transfer import to_device
from pipeline.engines.granite_nar.weights import Linear, Weights
from pipeline.errors import EngineError

_FULL_SCALE = 32768


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Clips packed on the host, ready to travel."""

    samples: Tensor  # int16, see `packing.pack_samples`; pinned where the model is on a CUDA device
    packing: FramePacking
    clips: int  # the first so many are real; what follows rounds the row up


class Uploaded(NamedTuple):
    """A batch's tensors on the device."""

    samples: Tensor
    mel: Tensor
    clip: Tensor
    places: encoder.FrameIndex
    label: Tensor
    window: Tensor
    audio: Tensor

    def tensors(self) -> Iterator[Tensor]:
        """All of them."""
        yield from (self.samples, self.mel, self.clip, *self.places, self.label, self.window, self.audio)


class Arriving(NamedTuple):
    """Labels on their way to the host."""

    ids: Tensor
    probabilities: Tensor
    event: Any  # torch.cuda.Event | None

    def ready(self) -> bool:
        """Whether `wait` would return at once."""
        return self.event is None or bool(self.event.query())

    def wait(self) -> tuple[Ints, Floats]:
        """The labels and their posteriors; blocks until the device has got so far."""
        if self.event is not None:
            self.event.synchronize()
        return self.ids.numpy(), self.probabilities.numpy()


class Begun(NamedTuple):
    """The first half of a batch, queued."""

    batch: Batch
    labels: Arriving
    audio: Tensor  # [A, hidden of the editor], scaled as the editor wants it


class Edited(NamedTuple):
    """The second half of a batch, queued."""

    packing: EditPacking
    labels: Arriving


@dataclass(frozen=True, slots=True)
class DraftLabels:
    """How the labels of the draft's head count (granite.md's layouts): token id = label - shift."""

    blank: int
    shift: int


class Model:
    """A loaded model. Not for several threads at once: its device has one owner."""

    def __init__(
        self, weights: Weights, config: ModelConfig, labels: DraftLabels, *, backend: Backend, compiled: bool = False
    ) -> None:
        self.config = config
        self.labels = labels
        self.backend = backend
        self.device = weights.editor.embedding.device
        self.dtype = weights.editor.embedding.dtype
        self._weights = weights
        self._head = Linear(weights.editor.embedding, None)
        self._log_mel = LogMel(self.device)
        if self.device.type == "cuda":
            # cuDNN makes a plan on the host for every new shape, and here every batch has another number of blocks.
            torch.backends.cuda.enable_cudnn_sdp(False)
        self._kernels = Kernels.compiled() if compiled else Kernels()

    def pack(self, clips: Sequence[Samples], *, round_to: int = 1) -> Batch:
        """Pack clips (int16, 16 kHz) for one pass.

        `round_to`: fill the row up to a multiple of so many frames with a clip of silence, whose text nobody reads.
        """
        frames = frames_of(np.array([len(clip) for clip in clips], np.int64))
        rest = int(-frames.sum() % round_to)
        silence = [np.zeros(rest * 320, np.int16)] if rest else []
        packing = pack_frames(np.append(frames, rest) if rest else frames, self.config)
        samples = torch.empty(row_samples(packing.frames), dtype=torch.int16, pin_memory=self.device.type == "cuda")
        pack_samples([*clips, *silence], out=samples.numpy())
        return Batch(samples, packing, len(clips))

    def upload(self, batch: Batch) -> Uploaded:
        """Copy a batch to the device; on CUDA without waiting, on the current stream."""
        packing, send = batch.packing, self._send
        return Uploaded(
            samples=batch.samples.to(self.device, non_blocking=True),
            mel=send(packing.mel),
            clip=send(packing.clip),
            places=encoder.FrameIndex(
                send(packing.block), send(packing.unblock), send(packing.spaced), send(packing.unspace)
            ),
            label=send(packing.label),
            window=send(packing.window),
            audio=send(packing.audio),
        )

    def begin(self, batch: Batch, uploaded: Uploaded) -> Begun:
        """Queue features, encoder, draft and projector."""
        config, weights = self.config, self._weights
        x = self.features(uploaded, len(batch.packing.frames)).to(self.dtype)
        found = self.encode(x, uploaded.places)
        pooled = draft.pool(found.taps[-1], found.blank, uploaded.label)
        labels = draft.read_head(pooled, weights.encoder.draft, best=self._kernels.best_label)
        projected = projector.project(found.taps, uploaded.window, weights.projector, config.projector)
        audio = projected[uploaded.audio]
        if not config.scale_projected:
            audio = audio * config.editor.embedding_multiplier
        return Begun(batch, self._fetch(labels), audio)

    def features(self, uploaded: Uploaded, clips: int) -> Tensor:
        """Log-mels of a batch of so many clips, float32 [M, 160]."""
        return self._log_mel(uploaded.samples.float() / _FULL_SCALE, uploaded.mel, uploaded.clip, clips)

    def encode(self, x: Tensor, places: encoder.FrameIndex) -> encoder.Encoded:
        """Features [M, input_dim] → the encoder's taps and blank probabilities."""
        return encoder.encode(x, places, self._weights.encoder, self.config.encoder, self._kernels.encoder_block)

    def drafts(self, begun: Begun) -> Tokens:
        """The draft of every real clip; waits for it. Raises EngineError: numbers that are not finite."""
        sizes = begun.batch.packing.labels[: begun.batch.clips]
        ids, probabilities = begun.labels.wait()
        real = int(sizes.sum())
        self._check_finite(probabilities[:real])
        return collapse(ids[:real], probabilities[:real], sizes, blank=self.labels.blank, shift=self.labels.shift)

    def edit(self, begun: Begun, clips: Ints, drafts: Sequence[Ints]) -> Edited:
        """Queue the editor for some clips of a batch, each with its draft."""
        packing = pack_edit(begun.batch.packing, clips, drafts, self.config)
        h = self.read_slots(begun.audio, packing)
        scale = self.config.editor.logits_scale
        labels = draft.read_head(h, self._head, scale, best=self._kernels.best_label)
        return Edited(packing, self._fetch(labels))

    def read_slots(self, audio: Tensor, packing: EditPacking) -> Tensor:
        """The editor's normed output at the slots, [S, hidden]."""
        config, weights = self.config.editor, self._weights.editor
        spans = attention.lay_out(packing.lengths, self.backend, self.device)
        rotation = editor.rotate_by(self._send(packing.position), config, self.dtype)
        h = editor.embed(audio, self._send(packing.tokens), self._send(packing.source), weights, config)
        kernels = self._kernels
        h = editor.run_blocks(h, rotation, spans, weights, config, kernels.before_attention, kernels.after_attention)
        return editor.rms_norm(h[self._send(packing.text)], weights.norm, config.eps)

    def tokens(self, edited: Edited) -> Tokens:
        """The final tokens of every edited clip; waits for them. Raises EngineError: numbers that are not finite."""
        ids, probabilities = edited.labels.wait()
        self._check_finite(probabilities)
        return collapse(ids, probabilities, edited.packing.slots, blank=self.config.blank_id)

    def _check_finite(self, probabilities: Floats) -> None:
        """Of all labels: the best of numbers that are none may be a blank, which leaves no trace in the tokens."""
        if np.isfinite(probabilities).all():
            return
        where = str(self.dtype).removeprefix("torch.")
        step = "download the model again" if self.dtype == torch.float32 else "set engine.options.dtype=float32"
        raise EngineError("engine_error", f"The model computed numbers that are not finite in {where}; {step}.")

    def _send(self, table: Ints) -> Tensor:
        return to_device(table, self.device)

    def _fetch(self, labels: draft.Labels) -> Arriving:
        if self.device.type != "cuda":
            return Arriving(labels.ids, labels.probabilities, None)
        ids, probabilities = (
            torch.empty_like(x, device="cpu", pin_memory=True).copy_(x, non_blocking=True) for x in labels
        )
        event = torch.cuda.Event(blocking=True)  # whoever waits sleeps: the cores are for decoding
        event.record()
        return Arriving(ids, probabilities, event)


@dataclass(frozen=True, slots=True)
class Kernels:
    """The functions in which nearly all time goes, as they are or compiled.

    Compiled piece by piece: one graph serves all layers and all batches, and the editor's attention kernels stay their own.
    """

    encoder_block: Callable[..., Tensor] = encoder.encoder_block
    before_attention: Callable[..., tuple[Tensor, Tensor, Tensor]] = editor.before_attention
    after_attention: Callable[..., Tensor] = editor.after_attention
    best_label: Callable[..., draft.Labels] = draft.best_label

    @staticmethod
    def compiled() -> Kernels:
        """Through torch.compile; the first calls take a minute."""
        return Kernels(
            encoder_block=_compile(encoder.encoder_block, 2),
            before_attention=_compile(editor.before_attention, 2),
            after_attention=_compile(editor.after_attention, 2),
            best_label=_compile(draft.best_label, 1),
        )


# Reuse a row that 15 taps read instead of computing gate and gather 15 times; trust indices that packing tests prove.
_COMPILER = {"realize_reads_threshold": 2, "assert_indirect_indexing": False}


def _compile(kernel: Callable[..., Any], row_arguments: int) -> Callable[..., Any]:
    """Compile for any number of rows in the first arguments (tensors, or tuples of them) and for the sizes of the weights."""
    compiled = torch.compile(kernel, options=dict(_COMPILER))

    def run(*arguments: Any) -> Any:
        for argument in arguments[:row_arguments]:
            for tensor in (argument,) if isinstance(argument, Tensor) else argument:
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return compiled(*arguments)

    return run
