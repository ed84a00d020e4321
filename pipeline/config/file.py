"""From a YAML file and `a.b=c` overrides to a RunConfig; what is wrong in them becomes one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import RunConfig
from pipeline.errors import ConfigError


class _Shown(Repr):
    """Ten lines of YAML that name each other can stand for a thousand million items, and one for a number without end."""

    def repr_int(self, x: int, level: int) -> str:
        """Shortly, and of a number that Python does not write out, that it is one."""
        try:
            return super().repr_int(x, level)
        except ValueError:
            return "a number of thousands of digits"


_SHOWN = _Shown()
_SHOWN.maxlevel = 2
_SHOWN.maxstring = _SHOWN.maxother = 200


def load_config(path: str | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply `a.b=c` overrides (values are YAML).

    Raises ConfigError: no such file, not a mapping, an unknown or ill-typed field; the message names the field.
    """
    data: dict[str, Any] = _read_yaml(path) if path else {}
    for override in overrides:
        _apply(data, override)
    try:
        return RunConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, overrides)) from None


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(Path(path).read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"There is no config file {path}; `ls configs/` shows the shipped ones.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]  # a ValueError: bytes that are no text, or a day that there is not
        raise ConfigError(f"The config file {path} cannot be read ({reason}); mend it and run again.") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(
            f"The config file {path} holds a {type(loaded).__name__}, not settings; see configs/demo.yaml."
        )
    return loaded


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, raw = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError(
            f"The override {override!r} is not of the form section.field=value; example: engine.model=tiny.en."
        )
    try:
        value = yaml.safe_load(raw)
    except (ValueError, RecursionError, yaml.YAMLError):  # ValueError: a day that there is not, as 2026-13-01
        shown = override if len(override) <= 200 else f"{override[:200]}…"
        raise ConfigError(f"The value in {shown!r} is not valid YAML; correct it, or put it in quotes.") from None
    here = data
    for part in parts[:-1]:
        inner = here.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"The override {override!r} goes into {part!r}, which is a single value; check the name.")
        here = inner
    here[parts[-1]] = value


def _explain(error: ValidationError, path: str | None, overrides: Sequence[str]) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    given = [override.partition("=")[0].strip() for override in overrides]
    is_overridden = any(where == name or where.startswith(f"{name}.") for name in given)
    where = _SHOWN.repr(where)[1:-1]
    source = f" (config file {path})" if path and not is_overridden else ""
    if first["type"] == "extra_forbidden":
        return f"There is no setting {where!r}{source}; {_closest(where)}."
    if first["type"] == "missing":
        return f"The setting {where!r} is missing{source}; give it in the YAML or as {where}=VALUE."
    step = "put the value in quotes" if first["type"] == "string_type" else "correct it"
    shown = _SHOWN.repr(first["input"])
    return f"The setting {where!r}{source} cannot be {shown}: {first['msg']}; {step} and run again."


def _closest(where: str) -> str:
    from difflib import get_close_matches

    names = _names(RunConfig)
    near = get_close_matches(where, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}" if near else "`quarry run --explain` lists them all"


def _names(model: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, info in model.model_fields.items():
        found.append(prefix + name)
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += _names(inner, f"{prefix}{name}.")
    return found
