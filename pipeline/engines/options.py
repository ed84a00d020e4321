"""An engine's own options: `engine.options` of the config, checked against the engine's model of them."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from pipeline.config import EngineConfig, Section
from pipeline.errors import ConfigError

OptionsT = TypeVar("OptionsT", bound=Section)


def read_options(model: type[OptionsT], config: EngineConfig) -> OptionsT:
    """The options with their defaults. Raises ConfigError, which names the first option that cannot be."""
    try:
        return model.model_validate(config.options)
    except ValidationError as error:
        first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        raise ConfigError(f"The {config.name} engine has no option {name!r}; engine.options can hold: {known}.")
    raise ConfigError(
        f"The option engine.options.{name} cannot be {first['input']!r}: {first['msg']}; correct it and run again."
    )


def check_device(config: EngineConfig) -> None:
    """Raises ConfigError where `engine.device` is none that an engine here can have."""
    if config.device not in ("auto", "cpu", "cuda"):
        raise ConfigError(
            f"The {config.name} engine has no device {config.device!r}; engine.device can be auto, cpu or cuda."
        )
