"""What an engine on PyTorch runs with: its libraries, its device, its number format. Imports torch late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, EngineDead, EngineError

if TYPE_CHECKING:
    import torch


def check_libraries(engine: str, libraries: Sequence[str], extra: str) -> None:
    """Raises ConfigError, which names what is missing and the extra that brings it."""
    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f'The {engine} engine needs {", ".join(missing)}; run `pip install "quarry-asr[{extra}]"` (docs/install.md).'
        )


def choose_device(wanted: str) -> torch.device:
    """`engine.device`: cpu, cuda, or auto, which takes CUDA where there is one. Raises ConfigError."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise ConfigError("engine.device=cuda, but torch sees no CUDA device here; set auto, or check the driver.")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """A floating type by name; auto: bfloat16 where the accelerator has it, float16 on older ones, float32 on a CPU."""
    import torch

    if wanted != "auto":
        found: torch.dtype = getattr(torch, wanted)
        return found
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16


@contextmanager
def loading(model: str, device: torch.device, close: Callable[[], None]) -> Iterator[None]:
    """Loads and warms up a model: whatever fails, what was taken is given back by `close`.

    Raises ConfigError for a model that does not run there; a dead device and all else as they come.
    """
    try:
        yield
    except Exception as error:
        close()
        if not isinstance(error, EngineError) or isinstance(error, EngineDead):
            raise
        raise ConfigError(f"The model {model} does not run on {device}: {error.message}") from None
