"""From a folder with a checkpoint to weights on a device: safetensors alone, every tensor used once, nothing assumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from pipeline.engines.granite_nar.checkpoint import Match, match, read_header
from pipeline.engines.granite_nar.config import ModelConfig, read_config
from pipeline.engines.granite_nar.model import DraftLabels
from pipeline.engines.granite_nar.weights import Weights, build_weights
from pipeline.errors import ConfigError

WEIGHTS_FILE, CONFIG_FILE, TOKENIZER_FILE = "model.safetensors", "config.json", "tokenizer.json"
_EMBEDDING = "language_model.model.embed_tokens.weight"


def load_weights(folder: Path, *, dtype: torch.dtype, device: torch.device) -> tuple[Weights, ModelConfig, DraftLabels]:
    """Load a checkpoint of any published layout.

    Raises ConfigError, which names the first wrong tensor: missing, unknown, of another shape or type, a norm that is no
    identity, a head that is not the embedding, a number that is not finite in `dtype`.
    """
    path = folder / WEIGHTS_FILE
    config = read_config(read_json(folder / CONFIG_FILE))
    found = match(read_header(path), config)
    with safe_open(path, framework="pt") as file:
        _check_identities(found, file.get_tensor)
        _check_tied_head(found, file.get_tensor)
        used: set[str] = set()

        def get(name: str) -> Tensor:
            assert name not in used, f"{name} is used twice"
            used.add(name)
            tensor: Tensor = file.get_tensor(found.names[name])
            _check_finite(found.names[name], tensor, dtype)
            return tensor

        weights = build_weights(get, config, dtype=dtype, device=device)
    unused = set(found.names) - used - set(found.identity)
    assert not unused, f"nothing reads {sorted(unused)[:3]}"
    return weights, config, DraftLabels(found.draft_blank, found.label_shift)


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object. Raises ConfigError."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The file {path} cannot be read ({error}); download the model again.") from None
    if not isinstance(found, dict):
        raise ConfigError(f"The file {path} holds a {type(found).__name__}, not settings; download the model again.")
    return found


def _check_identities(found: Match, get: Callable[[str], Tensor]) -> None:
    """The model code leaves these norms' affine parts out, which is right only while they do nothing."""
    for name in found.identity:
        wanted = 1.0 if name.endswith(".weight") else 0.0
        if not bool((get(found.names[name]) == wanted).all()):
            raise ConfigError(
                f"The tensor {found.names[name]} is not {wanted:g} throughout, as in every published model; "
                "this one was trained differently and cannot be run."
            )


def _check_finite(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Not every step hands such a number on to the result, where it would be seen: attention over it gives wrong text."""
    low, high = (float(edge) for edge in tensor.aminmax())
    limit = torch.finfo(dtype).max
    if not (-limit <= low and high <= limit):  # no comparison holds for what is no number
        where = str(dtype).removeprefix("torch.")
        step = "" if dtype == torch.float32 else ", or set engine.options.dtype=float32"
        raise ConfigError(
            f"The tensor {name} has numbers that are not finite in {where}; download the model again{step}."
        )


def _check_tied_head(found: Match, get: Callable[[str], Tensor]) -> None:
    if found.tied_head is not None and not torch.equal(get(found.tied_head), get(found.names[_EMBEDDING])):
        raise ConfigError(
            f"The tensor {found.tied_head} is not the embedding, which every published model uses as its head; "
            "this one was trained differently and cannot be run."
        )
