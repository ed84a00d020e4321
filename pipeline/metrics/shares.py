"""How the audio of an archive is spread: recordings and hours by language and by length. Sums of blocks, fixed memory.

What a Share counts lies in plan headers as it is: `{"en": {"recordings": 12, "audio_s": 3600.5, "more_channels_s": 0.0}}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.metrics.summary import MOST_SLICES, OTHER, UNKNOWN

_BUCKETS = (
    (0.0, "under 10 s"),
    (10.0, "10 to 30 s"),
    (30.0, "30 s to 2 min"),
    (120.0, "2 to 10 min"),
    (600.0, "10 to 60 min"),
    (3600.0, "1 to 4 h"),
    (14_400.0, "over 4 h"),
)
BUCKETS = (*(name for _, name in _BUCKETS), UNKNOWN)  # from short to long


class Share(TypedDict):
    """What one language, or one length, has of the audio."""

    recordings: int
    audio_s: float
    more_channels_s: float  # as in PlanTotals


Shares = Mapping[str, Share]


def duration_buckets(duration_s: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The name of each length's bucket (BUCKETS); null, and what is not a length, is UNKNOWN. A bucket has its lower edge."""
    seconds = pc.fill_null(pc.cast(duration_s, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    places = np.searchsorted([edge for edge, _ in _BUCKETS], seconds, side="right") - 1
    places[~(seconds >= 0)] = len(_BUCKETS)
    return pa.array(BUCKETS).take(pa.array(places))


def language_shares(windows: pa.Table) -> Shares:
    """By the manifest's language, over rows of PLAN_SCHEMA."""
    return _shares(windows, pc.fill_null(windows["language"], UNKNOWN))


def duration_shares(windows: pa.Table) -> Shares:
    """By the length of the whole recording, over rows of PLAN_SCHEMA."""
    return _shares(windows, duration_buckets(windows["duration_s"]))


def add_shares(one: Shares, other: Shares) -> Shares:
    """Both together; beyond MOST_SLICES names, what is left is OTHER."""
    found: dict[str, Share] = dict(one)
    for name, share in other.items():
        key = name if name in found or len(found) < MOST_SLICES else OTHER
        before = found.get(key, Share(recordings=0, audio_s=0.0, more_channels_s=0.0))
        found[key] = Share(
            recordings=before["recordings"] + share["recordings"],
            audio_s=before["audio_s"] + share["audio_s"],
            # Plans from before recordings that are split were weighed have none.
            more_channels_s=before.get("more_channels_s", 0.0) + share.get("more_channels_s", 0.0),
        )
    return found


def _shares(windows: pa.Table, names: pa.Array | pa.ChunkedArray) -> Shares:
    """A recording counts where its first window is, seconds where they are planned."""
    table = pa.table(
        {
            "name": names,
            "first": pc.cast(pc.equal(windows["window_index"], 0), pa.int64()),
            "audio_s": pc.subtract(windows["end_s"], windows["start_s"]),
            "more_s": _more_s(windows),
        }
    )
    wanted = [("first", "sum"), ("audio_s", "sum"), ("more_s", "sum")]
    sums = table.group_by("name", use_threads=False).aggregate(wanted).sort_by("name")
    found = {
        row["name"]: Share(
            recordings=row["first_sum"], audio_s=row["audio_s_sum"], more_channels_s=row["more_s_sum"] or 0.0
        )
        for row in sums.to_pylist()
    }
    return add_shares({}, found)


def more_channels_s(windows: pa.Table) -> float:
    """Seconds beyond those of the recordings: the second channel and further ones of what is split. Of PLAN_SCHEMA."""
    return pc.sum(_more_s(windows)).as_py() or 0.0


def _more_s(windows: pa.Table) -> pa.ChunkedArray:
    further = pc.subtract(pc.fill_null(windows["split_channels"], 1), 1)
    return pc.multiply(pc.subtract(windows["end_s"], windows["start_s"]), pc.cast(further, pa.float64()))
