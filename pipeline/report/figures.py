"""Numbers as the page writes them. Pure."""

from __future__ import annotations

NOTHING = "–"


def count(number: int | float) -> str:
    """ "1,204"."""
    return f"{number:,.0f}"


def percent(share: float | None, digits: int = 1) -> str:
    """ "2.1 %", with a space that does not break."""
    return NOTHING if share is None else f"{100 * share:,.{digits}f}\u00a0%"


def times(ratio: float | None) -> str:
    """ "68.9×" """
    return NOTHING if ratio is None else f"{ratio:,.0f}×" if ratio >= 1000 else f"{ratio:,.1f}×"


def length(seconds: float) -> str:
    """How much audio, in one unit: "312.4 h", "52.3 min", "12.1 s"."""
    if seconds >= 3600:
        return f"{seconds / 3600:,.1f}\u00a0h"
    return f"{seconds / 60:.1f}\u00a0min" if seconds >= 60 else f"{seconds:.1f}\u00a0s"


def place(seconds: float) -> str:
    """A time in a recording: "0:12.3", "1:02:03.4"."""
    tenths = round(max(0.0, seconds) * 10)
    hours, minutes, rest = tenths // 36_000, tenths // 600 % 60, tenths % 600 / 10
    return f"{hours}:{minutes:02d}:{rest:04.1f}" if hours else f"{minutes}:{rest:04.1f}"


def tick(seconds: float) -> str:
    """A round time under an axis: "0.1 s", "10 min", "2 h"."""
    for unit_s, unit in ((3600, "h"), (60, "min")):
        if seconds >= unit_s and seconds % unit_s == 0:
            return f"{seconds / unit_s:g}\u00a0{unit}"
    return f"{seconds:g}\u00a0s"


def usd(amount: float | None, digits: int = 2) -> str:
    """ "$12.40"."""
    return NOTHING if amount is None else f"${amount:,.{digits}f}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """ "1 recording", "1,204 recordings"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
