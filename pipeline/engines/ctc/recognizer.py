"""The owner of the device: a loaded CTC model and the one thread that runs it.

Clips in; for every frame of each its best label and that label's posterior out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engines.ctc.alignment import Floats, Ints
from pipeline.engines.ctc.checkpoint import Checkpoint
from pipeline.engines.ctc.features import FrontEnd, GraniteFeatures, SpectrogramFeatures, WaveformFeatures
from pipeline.errors import ConfigError, EngineError
from pipeline.records import Samples

if TYPE_CHECKING:
    import torch

# Only used in training; left out of published weights.
_UNUSED_WEIGHTS = ("masked_spec_embed",)


class Recognizer:
    """A model on its device. `labels` may be called from several threads; the batches run one after the other."""

    def __init__(
        self,
        folder: Path,
        checkpoint: Checkpoint,
        *,
        device: torch.device,
        dtype: torch.dtype,
        attention: str | None,
        threads: int,
    ) -> None:
        """`attention` None: the model's own choice. Raises ConfigError: no such attention, or weights that do not fit."""
        import torch

        self._checkpoint, self._device, self._dtype = checkpoint, device, dtype
        self._model = _load_model(folder, checkpoint.model, dtype, attention).to(device).eval()
        self._front_end = _front_end(folder, checkpoint, device)
        self._owner = ThreadPoolExecutor(1, "ctc", torch.set_num_threads, (threads,))
        self.vocabulary = int(self._model.config.vocab_size)
        self.blank = int(self._model.config.pad_token_id)

    def labels(self, clips: Sequence[Samples]) -> list[tuple[Ints, Floats]]:
        """The best label of every frame of every clip and its posterior. Raises EngineError and its kinds."""
        return self._owner.submit(self._run, clips).result()

    def close(self) -> None:
        """Finish what is running and give the memory back."""
        self._owner.shutdown()
        del self._model, self._front_end
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _run(self, clips: Sequence[Samples]) -> list[tuple[Ints, Floats]]:
        import torch

        from pipeline.engines.granite_nar.device import device_errors

        found: list[tuple[Ints, Floats]] = [(np.zeros(0, np.int64), np.zeros(0, np.float32))] * len(clips)
        with torch.inference_mode(), device_errors():
            for rows in self._groups(clips):
                for row, one in zip(rows, self._pass([clips[row] for row in rows]), strict=True):
                    found[row] = one
        return found

    def _groups(self, clips: Sequence[Samples]) -> list[list[int]]:
        """Which clips go through the model together: all, or those of one length where padding would change the text."""
        if self._checkpoint.is_masked:
            return [list(range(len(clips)))]
        found: defaultdict[int, list[int]] = defaultdict(list)
        for row, clip in enumerate(clips):
            found[len(clip)].append(row)
        return list(found.values())

    def _pass(self, clips: Sequence[Samples]) -> list[tuple[Ints, Floats]]:
        inputs, lengths = self._front_end(clips)
        cast = {name: value.to(self._dtype) if value.is_floating_point() else value for name, value in inputs.items()}
        logits = self._model(**cast).logits
        best, labels = logits.max(-1)
        posteriors = (best.float() - logits.float().logsumexp(-1)).exp().cpu().numpy()
        ids = labels.cpu().numpy()
        sizes = self._output_lengths(lengths).tolist()
        found = [(ids[row, :size], posteriors[row, :size]) for row, size in enumerate(sizes)]
        self._check_finite([probabilities for _, probabilities in found])
        return found

    def _output_lengths(self, lengths: torch.Tensor) -> torch.Tensor:
        count: Any = self._model
        if self._checkpoint.family.front_end == "waveform":
            return count._get_feat_extract_output_lengths(lengths)  # type: ignore[no-any-return]
        return count._get_subsampling_output_length(lengths)  # type: ignore[no-any-return]

    def _check_finite(self, posteriors: Sequence[Floats]) -> None:
        """Of all frames: the best of numbers that are none may be a blank, which leaves no trace in the text."""
        if all(np.isfinite(one).all() for one in posteriors):
            return
        where = str(self._dtype).removeprefix("torch.")
        step = "download the model again" if where == "float32" else "set engine.options.dtype=float32"
        raise EngineError("engine_error", f"The model computed numbers that are not finite in {where}; {step}.")


def _load_model(folder: Path, model: str, dtype: torch.dtype, attention: str | None) -> Any:
    from transformers import AutoModelForCTC
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        found, report = AutoModelForCTC.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"The model {model} does not load ({reason}); check its files and engine.options.attention."
        ) from None
    missing = sorted(name for name in report["missing_keys"] if not name.endswith(_UNUSED_WEIGHTS))
    if missing:
        raise ConfigError(f"The weights of {model} lack {missing[0]}; take a model that was fine-tuned with CTC.")
    return found


def _front_end(folder: Path, checkpoint: Checkpoint, device: torch.device) -> FrontEnd:
    from transformers import AutoFeatureExtractor

    if checkpoint.family.front_end == "granite_speech5":
        return GraniteFeatures(device)
    try:
        extractor = AutoFeatureExtractor.from_pretrained(  # type: ignore[no-untyped-call]
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"The feature extractor of {checkpoint.model} cannot be read ({reason}); download it again."
        ) from None
    if checkpoint.family.front_end == "spectrogram":
        return SpectrogramFeatures(extractor, device)
    return WaveformFeatures(extractor, device, masked=checkpoint.is_masked)
