"""The price file: what an hour of a machine costs, and how fast an engine was on it. `configs/prices.yaml` is an example.

Nothing is known beforehand: prices are contracts, and speeds depend on the audio. Without a file, a machine, or a price there is
no cost, and the expected time is the engine's own rough figure.
"""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from pipeline.config import RunConfig, Section
from pipeline.engines.base import EngineSpec
from pipeline.errors import ConfigError
from pipeline.metrics.cost import Terms


class MachinePrice(Section):
    """One machine. `source` and `date` say where the price is from."""

    usd_per_hour: float | None = Field(None, ge=0)
    source: str = ""
    date: str = ""


class MeasuredSpeed(Section):
    """How fast one engine worker was on a machine. `model` None: whatever the model."""

    engine: str
    machine: str
    rtfx_per_worker: float = Field(gt=0)
    model: str | None = None
    source: str = ""
    date: str = ""


class PriceFile(Section):
    """All of a price file."""

    machines: dict[str, MachinePrice] = Field(default_factory=dict)
    speeds: list[MeasuredSpeed] = Field(default_factory=list)


def terms_of(config: RunConfig, spec: EngineSpec) -> Terms:
    """What an hour of the run is worth. Raises ConfigError for a price file that cannot be used."""
    cost = config.cost
    if cost.prices is None:
        if cost.machines:
            raise ConfigError("cost.machines names machines, but cost.prices no file with their prices; give it.")
        return Terms(spec.rtfx_per_worker)
    prices = load_prices(cost.prices)
    unknown = sorted(set(cost.machines) - set(prices.machines))
    if unknown:
        known = ", ".join(sorted(prices.machines)) or "none"
        raise ConfigError(f"The price file {cost.prices} has no machine {unknown[0]!r}; it has {known}.")
    usd: float | None = 0.0 if cost.machines else None
    for name, count in cost.machines.items():
        each = prices.machines[name].usd_per_hour
        usd = None if usd is None or each is None else usd + count * each
    speed = _speed(prices, config, spec)
    return Terms(speed or spec.rtfx_per_worker, speed is not None, usd)


def load_prices(path: str) -> PriceFile:
    """Read a price file. Raises ConfigError in one sentence."""
    try:
        return PriceFile.model_validate(yaml.safe_load(Path(path).read_text("utf-8")) or {})
    except FileNotFoundError:
        raise ConfigError(f"There is no price file {path}; copy configs/prices.yaml and fill in yours.") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ConfigError(f"In the price file {path}, {where} is wrong: {first['msg']}; correct it.") from None
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"The price file {path} cannot be read ({reason}); mend it and run again.") from None


def _speed(prices: PriceFile, config: RunConfig, spec: EngineSpec) -> float | None:
    """The speed that was measured for this engine on a machine of the run; one for the very model goes first."""
    fitting = [
        speed
        for speed in prices.speeds
        if speed.engine == spec.name
        and speed.machine in config.cost.machines
        and speed.model in (None, spec.model, config.engine.model)
    ]
    return min(fitting, key=lambda speed: speed.model is None).rtfx_per_worker if fitting else None
