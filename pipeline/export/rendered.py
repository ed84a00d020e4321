"""What a format makes of one recording."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Rendered:
    """The text for a recording's file, or None: there is nothing that could be written. `left_out`: reason → how many."""

    text: str | None
    left_out: Mapping[str, int] = field(default_factory=dict)
