"""Which CTC checkpoints there are, and what can be said of one from its JSON files and its model card alone.

Imports no heavy library and reads no weights.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from pipeline.engines.model_files import ModelFiles
from pipeline.engines.requests import primary_language
from pipeline.errors import ConfigError
from pipeline.records import SAMPLE_RATE_HZ

WEIGHTS_FILE = "model.safetensors"
_CONFIG, _CARD = "config.json", "README.md"
_EXTRACTORS = ("preprocessor_config.json", "processor_config.json")  # the second holds it under "feature_extractor"
_TOKENIZERS = ("tokenizer.json", "vocab.json")
_MORE = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_LANGUAGE = re.compile(r"[a-z]{2,3}")
_HOP_SAMPLES = 160

# What `features` computes by itself for Granite Speech 5; a model with other numbers would hear something else.
_GRANITE_FEATURES = {
    "num_mel_bins": 80,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": _HOP_SAMPLES,
    "delta_win_length": 3,
    "logmel_floor_db": 8.0,
}


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one `model_type`. `masks`: where padding is masked so well that a clip's labels do not change with it."""

    front_end: Literal["granite_speech5", "spectrogram", "waveform"]
    masks: Literal["always", "with_layer_norm", "never"]
    languages: frozenset[str] | None = None


# `masks` was measured, see tests/engines/ctc/test_ctc_padding.py. Group norm takes its mean over the padding too, mask or not;
# the others that never share a padded batch let padding in through their convolutions or their pooling.
FAMILIES = {
    "granite_speech5_ctc": Family("granite_speech5", "always", frozenset({"en"})),
    "parakeet_ctc": Family("spectrogram", "always"),
    "wav2vec2": Family("waveform", "with_layer_norm"),
    "hubert": Family("waveform", "with_layer_norm"),
    "wavlm": Family("waveform", "with_layer_norm"),
    "unispeech": Family("waveform", "with_layer_norm"),
    "unispeech-sat": Family("waveform", "with_layer_norm"),
    "wav2vec2-conformer": Family("waveform", "never"),
    "data2vec-audio": Family("waveform", "never"),
    "sew": Family("waveform", "never"),
    "sew-d": Family("waveform", "never"),
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What can be said of a model without its weights."""

    model: str
    family: Family
    is_masked: bool  # clips of different lengths can share a padded batch
    frame_s: float  # audio per label
    languages: frozenset[str] | None  # None: it does not say
    licence: str
    files: tuple[str, ...]  # what loading needs, weights included


def read_checkpoint(files: ModelFiles) -> Checkpoint:
    """Read a model's small files. Raises ConfigError: no CTC model, one of another type, or one that cannot be served."""
    names = files.names()
    needed = _needed_files(files.model, names)
    small = [name for name in (*needed, _CARD) if name in names and name in (_CONFIG, _CARD, *_EXTRACTORS)]
    folder = files.fetch(small)
    config = _read_json(files.model, folder / _CONFIG)
    family = _family(files.model, config)
    extractor = _read_extractor(files.model, folder, small)
    _check_extractor(files.model, family, extractor)
    card = _read_card(folder / _CARD) if _CARD in small else {}
    try:
        frame_s = _frame_samples(family, config, extractor) / SAMPLE_RATE_HZ
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"The config.json of {files.model} is not that of a CTC model ({error}); download it again."
        ) from None
    return Checkpoint(
        model=files.model,
        family=family,
        is_masked=family.masks == "always"
        or (family.masks == "with_layer_norm" and config.get("feat_extract_norm", "group") == "layer"),
        frame_s=frame_s,
        languages=_languages(card) or family.languages,
        licence=str(card.get("license", "unknown")),
        files=needed,
    )


def _needed_files(model: str, names: frozenset[str]) -> tuple[str, ...]:
    missing = [name for name in (_CONFIG, WEIGHTS_FILE) if name not in names]
    missing += [either[0] for either in (_EXTRACTORS, _TOKENIZERS) if not names & set(either)]
    if missing:
        raise ConfigError(
            f"The model {model} lacks {', '.join(missing)}; take a folder as `save_pretrained` of transformers writes it."
        )
    return tuple(name for name in (_CONFIG, *_EXTRACTORS, *_TOKENIZERS, *_MORE, WEIGHTS_FILE) if name in names)


def _family(model: str, config: Mapping[str, Any]) -> Family:
    """The model's family. Raises ConfigError for a model of another type, or one without a CTC head."""
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            f"The ctc engine cannot run {model}: its config.json says model_type {kind!r}; it runs {', '.join(FAMILIES)}."
        )
    classes = config.get("architectures") or []
    if classes and not any(str(name).endswith("ForCTC") for name in classes):
        raise ConfigError(
            f"The model {model} has no CTC head: its config.json says {', '.join(map(str, classes))}; take a fine-tuned one."
        )
    if config.get("adapter_attn_dim") is not None or config.get("add_adapter"):
        raise ConfigError(f"The model {model} needs adapters, which the ctc engine does not load; take one without.")
    return FAMILIES[kind]


def _read_extractor(model: str, folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The settings of the feature extractor, wherever they stand."""
    if _EXTRACTORS[0] in names:
        return _read_json(model, folder / _EXTRACTORS[0])
    found = _read_json(model, folder / _EXTRACTORS[1]).get("feature_extractor")
    if not isinstance(found, dict):
        raise ConfigError(f"The model {model} lacks {_EXTRACTORS[0]}; take its folder as it is published.")
    return found


def _check_extractor(model: str, family: Family, extractor: Mapping[str, Any]) -> None:
    wanted: dict[str, float] = {"sampling_rate": SAMPLE_RATE_HZ}
    wanted |= _GRANITE_FEATURES if family.front_end == "granite_speech5" else {}
    for name, value in wanted.items():
        if extractor.get(name, value) != value:
            raise ConfigError(
                f"The model {model} takes audio features with {name} {extractor[name]!r}, and the ctc engine makes {value}; "
                "take a published model."
            )


def _frame_samples(family: Family, config: Mapping[str, Any], extractor: Mapping[str, Any]) -> int:
    """Samples per label. The defaults are those of the models' own configurations."""
    encoder = config.get("encoder_config") or {}
    if family.front_end == "granite_speech5":
        layers = encoder.get("subsample_layers")
        return _HOP_SAMPLES << (1 + len([0, 1] if layers is None else layers))
    if family.front_end == "spectrogram":
        return int(extractor.get("hop_length", _HOP_SAMPLES)) * int(encoder.get("subsampling_factor", 8))
    return math.prod(map(int, config.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))))


def _languages(card: Mapping[str, Any]) -> frozenset[str] | None:
    """The languages of a model card, as engines write them; None where it names none."""
    said = card.get("language")
    found = {primary_language(tag) for tag in (said if isinstance(said, list) else [said]) if isinstance(tag, str)}
    return frozenset(tag for tag in found if _LANGUAGE.fullmatch(tag)) or None


def _read_card(path: Path) -> dict[str, Any]:
    """The YAML at the head of a model card; nothing where there is none that can be read."""
    try:
        marked, _, rest = path.read_text("utf-8").partition("---\n")
        found = yaml.safe_load(rest.partition("\n---")[0]) if not marked.strip() else None
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_json(model: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The {path.name} of {model} cannot be read ({error}); download it again.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"The {path.name} of {model} holds no settings; download it again.")
    return found
