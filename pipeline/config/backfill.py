"""The section for `quarry backfill`: which partitions of an archive a night takes."""

from __future__ import annotations

from datetime import date
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from pipeline.config.fields import Section, speed_field


class BackfillConfig(Section):
    """What `quarry backfill` takes in one invocation (docs/backfill.md). `manifest` says what the partitions are."""

    column: str | None = speed_field(None, "partitions are the values of this column of the one manifest")
    since: str | None = speed_field(None, "first day, as 2026-11-01")
    until: str | None = speed_field(None, "last day; null: today (UTC)")
    last_days: int | None = speed_field(None, "only so many days, the last one included", ge=1)
    order: Literal["oldest", "newest"] = speed_field("oldest", "which partitions come first")
    max_partitions: int | None = speed_field(None, "partitions worked on per invocation; null: all", ge=1)
    max_audio_h: float | None = speed_field(
        None, "audio hours per invocation; a longer partition is done alone; null: all", gt=0
    )
    max_wall_s: float | None = speed_field(None, "then it stops where it is, and the next one goes on", gt=0)
    min_age_s: float = speed_field(300.0, "files and manifests younger than this may still be uploaded: left", ge=0)
    retry_failed: int = speed_field(0, "failed recordings are tried again so often, once per invocation", ge=0)
    lease_s: float = speed_field(60.0, "a driver that is silent for so long is taken to be dead", ge=1)
    wait_s: float = speed_field(0.0, "wait so long for another backfill to end, rather than leave at once", ge=0)

    @field_validator("since", "until", mode="before")
    @classmethod
    def _day(cls, value: Any) -> str | None:
        if value is None:
            return None
        try:  # YAML reads a day as one
            return (value if isinstance(value, date) else date.fromisoformat(str(value))).isoformat()[:10]
        except ValueError:
            raise PydanticCustomError("day", "Input should be a day such as 2026-11-01") from None
