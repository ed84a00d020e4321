"""The LoRA adapter that lies beside granite-speech-3.3: its settings, and its way into the language model's weights.

Merged once while loading, W + scale · B A: the same product as an adapter that is computed beside the model, without its cost and
without the library. Source: arXiv 2106.09685, and the files as peft writes them.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.errors import ConfigError

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_CONFIG = "config.json"
# Settings that say how an adapter was trained or where it came from: with the tensors at hand they change nothing.
_HISTORY = {
    *("auto_mapping", "base_model_name_or_path", "exclude_modules", "inference_mode", "layers_pattern"),
    *("layers_to_transform", "loftq_config", "lora_dropout", "megatron_config", "megatron_core", "peft_version"),
    *("qalora_group_size", "revision", "runtime_config", "task_type"),
}
_KNOWN = _HISTORY | {"bias", "init_lora_weights", "lora_alpha", "peft_type", "r", "target_modules", "use_rslora"}
_NAME = re.compile(
    r"base_model\.model\.(?:language_model\.model|model\.language_model)\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight"
)


@dataclass(frozen=True, slots=True)
class Adapter:
    """What a merge has to know."""

    rank: int
    scale: float
    modules: frozenset[str] | None  # last names of the layers that have it; None: the settings give a pattern


def read_adapter(config: Mapping[str, Any], model: str) -> Adapter:
    """The settings in an adapter_config.json. Raises ConfigError for a kind of adapter that a merge would get wrong."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or type(rank) is not int or rank < 1 or not isinstance(alpha, int | float):
        raise _refusal(model, "describes no LoRA with r and lora_alpha")
    if config.get("bias", "none") != "none":
        raise _refusal(model, f"has bias={config['bias']!r}")
    if config.get("init_lora_weights", True) not in (True, False, None, "gaussian"):
        raise _refusal(model, f"has init_lora_weights={config['init_lora_weights']!r}")
    # Whatever else is set (use_dora, rank_pattern, modules_to_save …) would change the product or the model around it.
    unknown = sorted(key for key, value in config.items() if key not in _KNOWN and value)
    if unknown:
        raise _refusal(model, f"sets {unknown[0]}")
    targets = config.get("target_modules")
    if not isinstance(targets, str | list) or not all(isinstance(one, str) for one in targets):
        raise _refusal(model, "names no target_modules")
    return Adapter(
        rank=rank,
        scale=alpha / (rank**0.5 if config.get("use_rslora") else rank),
        modules=None if isinstance(targets, str) else frozenset(one.rpartition(".")[2] for one in targets),
    )


def merge_adapter(language_model: Any, path: Path, adapter: Adapter, model: str) -> None:
    """Add the adapter in a safetensors file to the weights of a GraniteModel. Raises ConfigError, which names what is wrong."""
    import torch
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
    except Exception as error:  # noqa: BLE001 - broken files raise what they like
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"The {path.name} of {model} cannot be read ({reason}); download it again.") from None
    pairs: dict[str, dict[str, Any]] = {}
    for name, tensor in tensors.items():
        found = _NAME.fullmatch(name)
        if found is None:
            raise ConfigError(f"The {path.name} of {model} has the tensor {name}, which no merge knows; {_STEP}.")
        pairs.setdefault(found["module"], {})[found["part"]] = tensor
    known = dict(language_model.named_modules())
    for name, pair in pairs.items():
        linear = known.get(name)
        if not isinstance(linear, torch.nn.Linear):
            raise ConfigError(f"The {path.name} of {model} changes {name}, which the model has not; {_STEP}.")
        rows, columns = linear.weight.shape
        if [list(pair[part].shape) if part in pair else [] for part in "AB"] != [
            [adapter.rank, columns],
            [rows, adapter.rank],
        ]:
            raise ConfigError(f"The {path.name} of {model} does not fit {name} with r={adapter.rank}; {_STEP}.")
        change = adapter.scale * (pair["B"].float() @ pair["A"].float())
        merged = linear.weight.float() + change.to(linear.weight.device)
        linear.weight = torch.nn.Parameter(merged.to(linear.weight.dtype), requires_grad=False)
    reached = {name.rpartition(".")[2] for name in pairs}
    if not reached or (adapter.modules is not None and reached != adapter.modules):
        lacking = sorted((adapter.modules or {"any layer"}) - reached) or sorted(reached)
        raise ConfigError(f"The {path.name} of {model} and its settings disagree about {lacking[0]}; {_STEP}.")


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """The same model without what belongs to the adapter, as long as the context lasts.

    transformers loads an adapter that lies beside a model where peft is installed, and leaves it out where it is not.
    """
    with TemporaryDirectory(prefix="quarry-") as made:
        for path in folder.iterdir():
            if path.is_file() and path.name not in (_CONFIG, ADAPTER_CONFIG, ADAPTER_WEIGHTS):
                os.symlink(path.resolve(), Path(made) / path.name)
        config = json.loads((folder / _CONFIG).read_text("utf-8"))
        (Path(made) / _CONFIG).write_text(json.dumps(config | {"has_lora_adapter": False}), "utf-8")
        yield Path(made)


_STEP = "take all files from one revision of granite-speech-3.3"


def _refusal(model: str, problem: str) -> ConfigError:
    return ConfigError(
        f"The {ADAPTER_CONFIG} of {model} {problem}, which Quarry cannot merge; merge it with peft first."
    )
