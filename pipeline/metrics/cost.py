"""What a run should take and cost, and what it did: the same fields for both, so that they can stand side by side. Pure.

Prices are those of all machines of a run together, while it goes on: idle workers are paid for too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Terms:
    """What an hour of a run is worth: one engine's expected speed, and the price of the machines (`pipeline.prices`)."""

    rtfx_per_worker: float
    measured: bool = False  # the price file gives the speed; else the engine's own rough figure
    usd_per_hour: float | None = None  # of all machines together; None: nobody has said


@dataclass(frozen=True, slots=True)
class Expense:
    """Audio, the hours for it, and the money. `usd` is None without a price, or where not all the hours have one."""

    audio_h: float
    engine_h: float  # engine workers times hours: expected, those that compute; spent, those that were paid for
    wall_h: float
    usd: float | None
    usd_per_audio_h: float | None


def expected(audio_s: float, terms: Terms, engine_workers: int, more_channels_s: float = 0.0) -> Expense:
    """What audio should take and cost if the engines are never kept waiting.

    `more_channels_s`: what the engine hears beyond it, where channels are kept apart. An hour of audio stays an hour.
    """
    engine_h = (audio_s + more_channels_s) / 3600 / terms.rtfx_per_worker
    wall_h = engine_h / engine_workers
    usd = None if terms.usd_per_hour is None else wall_h * terms.usd_per_hour
    return _expense(audio_s / 3600, engine_h, wall_h, usd)


def spent(sessions: Iterable[Mapping[str, Any]]) -> Expense:
    """What the sessions of a run (`pipeline.store.ledger.Session` as dicts) took and cost, start-up and idle time included."""
    audio_h = engine_h = wall_h = 0.0
    usd: float | None = 0.0
    for session in sessions:
        hours = session["wall_s"] / 3600
        audio_h += session["audio_s"] / 3600
        wall_h += hours
        engine_h += hours * session["engine_workers"]
        price = session.get("usd_per_hour")  # sessions from before there were price files have none
        usd = None if usd is None or price is None else usd + hours * price
    return _expense(audio_h, engine_h, wall_h, usd if wall_h else None)


def together(expenses: Iterable[Expense]) -> Expense:
    """The sum: parts of a plan, datasets of an evaluation."""
    found = list(expenses)
    prices = [each.usd for each in found]
    usd = None if None in prices or not prices else sum(each for each in prices if each is not None)
    audio_h, engine_h, wall_h = (sum(getattr(one, name) for one in found) for name in ("audio_h", "engine_h", "wall_h"))
    return _expense(audio_h, engine_h, wall_h, usd)


def _expense(audio_h: float, engine_h: float, wall_h: float, usd: float | None) -> Expense:
    return Expense(audio_h, engine_h, wall_h, usd, usd / audio_h if usd is not None and audio_h else None)
