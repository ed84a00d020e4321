"""From clips to audio embeddings: features per clip, then the packed Conformer that granite-nar uses, then the Q-Former.

Nothing is padded, so no clip's embeddings depend on what else is in the batch. transformers' own encoder pads without a mask, and
computes its attention with plain matrix products; only its weights are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engines.granite_nar.collapse import Tokens, collapse
from pipeline.engines.granite_nar.config import EncoderConfig, ModelConfig, ProjectorConfig
from pipeline.engines.granite_nar.packing import FramePacking, pack_frames
from pipeline.records import Samples

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.engines.granite_nar.encoder import Encoded
    from pipeline.engines.granite_nar.weights import Linear

_FULL_SCALE = 32_768
_FFT, _WINDOW_SAMPLES, _HOP_SAMPLES = 512, 400, 160
_SMALLEST = 1e-10


class Ear:
    """Takes the encoder out of a GraniteSpeech(Plus)ForConditionalGeneration (the model does without it from then on)."""

    def __init__(self, model: Any, draft_head: tuple[Tensor, Tensor] | None = None) -> None:
        """`draft_head`: weight and bias of a CTC head over pooled frames, see `listen_and_draft`."""
        import torch

        from pipeline.engines.granite_nar.features import mel_filters
        from pipeline.engines.granite_nar.weights import build_encoder

        self._device, self._dtype = model.device, model.dtype
        self.sizes = _sizes(model.config)
        tensors = model.model.encoder.state_dict(prefix="encoder.")
        self._encoder = build_encoder(
            tensors.__getitem__, self.sizes.encoder, dtype=self._dtype, device=self._device, draft="encoder.out"
        )
        self._draft_head = draft_head and self._linear(*draft_head)
        self._projector = model.model.projector
        model.model.encoder = None
        self._window = torch.hann_window(_WINDOW_SAMPLES, dtype=torch.float64).float().to(self._device)
        self._filters = mel_filters().float().to(self._device)

    def listen(self, clips: Sequence[Samples]) -> list[Tensor]:
        """Audio embeddings of int16 clips of at least 320 samples at 16 kHz: [positions, hidden] each, 10 a second."""
        return self._embed(*self._encode(clips))

    def listen_and_draft(self, clips: Sequence[Samples]) -> tuple[list[Tensor], Tokens]:
        """What `listen` gives, and the encoder's own CTC hypothesis of every clip, with its posteriors.

        Without a head of its own: characters, one label per frame of the last layer, 0 is the blank (as granite-4.0-1b-speech
        drafts). With one: tokens, one label per four frames, pooled by how little each is a blank; 0 is the blank and the token
        is the label less one (granite-speech-4.1-2b). Source: granite.md §3.7.
        """
        from pipeline.engines.granite_nar.draft import pool, read_head
        from pipeline.engines.granite_nar.transfer import to_device

        found, packing = self._encode(clips)
        frames = found.taps[-1]
        if self._draft_head is None:
            sizes, labels = packing.frames, read_head(frames, self._encoder.draft)
        else:
            pooled = pool(frames, found.blank, to_device(packing.label, self._device))
            sizes, labels = packing.labels, read_head(pooled, self._draft_head)
        ids, probabilities = (one.cpu().numpy() for one in labels)
        drafts = collapse(ids, probabilities, sizes, blank=0, shift=0 if self._draft_head is None else 1)
        return self._embed(found, packing), drafts

    def features(self, clip: Sequence[int] | Samples) -> Tensor:
        """Log-mels of a clip on its own, pairs stacked: float32 [frames, 160]. As GraniteSpeechFeatureExtractor makes them."""
        import torch

        samples = torch.from_numpy(np.array(clip, np.float32)).to(self._device) / _FULL_SCALE
        spectrum = torch.stft(
            samples, _FFT, _HOP_SAMPLES, _WINDOW_SAMPLES, self._window, pad_mode="reflect", return_complex=True
        )
        mels = spectrum.abs().square().t() @ self._filters
        log = mels.clamp_min(_SMALLEST).log10()
        log = torch.maximum(log, log.max() - 8) / 4 + 1  # the loudest of all frames, before the odd last one goes
        return log[: len(log) // 2 * 2].reshape(-1, 2 * log.shape[1])

    def _encode(self, clips: Sequence[Samples]) -> tuple[Encoded, FramePacking]:
        import torch

        from pipeline.engines.granite_nar.encoder import FrameIndex, encode, encoder_block
        from pipeline.engines.granite_nar.transfer import to_device

        features = [self.features(clip) for clip in clips]
        packing = pack_frames(np.array([len(one) for one in features], np.int64), self.sizes)
        tables = (packing.block, packing.unblock, packing.spaced, packing.unspace)
        places = FrameIndex(*(to_device(table, self._device) for table in tables))
        row = torch.cat(features).to(self._dtype)
        return encode(row, places, self._encoder, self.sizes.encoder, encoder_block), packing

    def _embed(self, found: Encoded, packing: FramePacking) -> list[Tensor]:
        import torch

        return list(self._project(torch.cat(found.taps, -1), packing).split(self._positions(packing)))

    def _linear(self, weight: Tensor, bias: Tensor) -> Linear:
        from pipeline.engines.granite_nar.weights import Linear

        return Linear(*(one.to(self._device, self._dtype) for one in (weight, bias)))

    def _project(self, heard: Tensor, packing: FramePacking) -> Tensor:
        import torch

        from pipeline.engines.granite_nar.transfer import to_device

        window = to_device(packing.window, self._device)
        frames = torch.where((window >= 0)[..., None], heard[window.clamp_min(0)], 0)
        queried = self._projector.qformer(
            query_embeds=self._projector.query,
            encoder_hidden_states=frames,
            encoder_attention_mask=None,
            return_dict=True,
        ).last_hidden_state
        found: Tensor = self._projector.linear(queried).flatten(0, 1)
        return found

    def _positions(self, packing: FramePacking) -> list[int]:
        projector = self.sizes.projector
        windows = -(-packing.frames // projector.window)
        return [int(count) * (projector.window // projector.downsample) for count in windows]


def _sizes(config: Any) -> ModelConfig:
    encoder = config.encoder_config
    return ModelConfig(
        encoder=EncoderConfig(
            input_dim=encoder.input_dim,
            layers=encoder.num_layers,
            hidden=encoder.hidden_dim,
            heads=encoder.num_heads,
            head_dim=encoder.dim_head,
            feedforward=encoder.hidden_dim * encoder.feedforward_mult,
            conv_kernel=encoder.conv_kernel_size,
            conv_inner=encoder.hidden_dim * encoder.conv_expansion_factor,
            context=encoder.context_size,
            max_distance=encoder.max_pos_emb,
            characters=encoder.output_dim,
            self_conditioning_layer=encoder.num_layers // 2,
            taps=(
                *sorted(set(getattr(encoder, "cat_hidden_layers", None) or ())),
                encoder.num_layers,
            ),  # plus has several
        ),
        projector=ProjectorConfig(window=config.window_size, downsample=config.downsample_rate),
    )
