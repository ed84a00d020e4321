"""How far a run is, from its store alone: no driver is asked, nothing is written, and what is listed is not opened.

A part's time is the store's own, and so is "now" where the store tells it, so clocks need not agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.existing import ExistingRun
from pipeline.metrics.rtfx import rtfx
from pipeline.runtime.progress import clock
from pipeline.store.ledger import Ledger, Session, read_json
from pipeline.store.parts import Part, list_parts, read_part
from pipeline.store.retries import list_retries
from pipeline.store.snapshot import latest_snapshot

_LATELY_S = 600.0  # speed is that of the last ten minutes
_AT_LEAST_QUIET_S = 120.0  # a run that gave no part for so long, and for five times its usual pace, may have stopped
_USUAL_GAPS = 5.0
_FEW_PARTS = 64  # so many are opened for their failures while there is no snapshot; more would not be cheap
_SESSIONS_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Pace:
    """How parts have come of late. Ages are in seconds, by the store's clock."""

    last_part_age_s: float | None  # None: there is no part, or the store tells no times
    rtfx: float | None  # seconds of audio per second over the last ten minutes; None: fewer than two parts in them
    over_s: float  # what `rtfx` was measured over
    is_going: bool  # parts come as they used to


@dataclass(frozen=True, slots=True)
class RetryStatus:
    """One retry of the run."""

    id: str
    shards_done: int
    shards: int


@dataclass(frozen=True, slots=True)
class Status:
    """How far a run is. `failure_codes` None: not known cheaply (many parts, and no snapshot yet)."""

    run_id: str
    uri: str
    shards_done: int
    shards: int
    audio_done_s: float
    audio_s: float
    pace: Pace
    eta_s: float | None
    failure_codes: dict[str, int] | None
    snapshot: int | None
    sessions: int
    latest_sessions: tuple[Session, ...]
    retries: tuple[RetryStatus, ...]

    @property
    def exit_code(self) -> int:
        """0 all shards are done · 3 some are left."""
        return 3 if self.shards_done < self.shards else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def look(run: ExistingRun) -> Status:
    """Look at a run. Raises StoreError."""
    ledger = run.ledger
    entries = ledger.entries()
    ids, times = _listed(ledger)
    position = pc.index_in(entries["shard_id"].combine_chunks(), value_set=ids)
    is_done = pc.is_valid(position).to_numpy(zero_copy_only=False)
    audio_s = entries["audio_s"].to_numpy()
    written_s = times[position.drop_null().to_numpy()]
    pace = pace_of(written_s, audio_s[is_done], ledger.store.clock_s())
    left_s = float(audio_s[~is_done].sum())
    sessions = sorted(info.key for info in ledger.store.list("sessions/"))
    snapshot = latest_snapshot(ledger.store)
    is_whole = bool(is_done.all())
    codes = dict(snapshot.run["totals"]["failure_codes"]) if snapshot and is_whole else _failures(ledger, len(ids))
    return Status(
        run_id=run.id,
        uri=str(ledger.store),
        shards_done=int(is_done.sum()),
        shards=entries.num_rows,
        audio_done_s=float(audio_s[is_done].sum()),
        audio_s=float(audio_s.sum()),
        pace=pace,
        eta_s=left_s / pace.rtfx if left_s and pace.rtfx and pace.is_going else None,
        failure_codes=codes,
        snapshot=snapshot.number if snapshot else None,
        sessions=len(sessions),
        latest_sessions=tuple(Session(**read_json(ledger.store, key)) for key in sessions[-_SESSIONS_SHOWN:]),
        retries=tuple(_retries(ledger)),
    )


def pace_of(written_s: npt.NDArray[np.float64], audio_s: npt.NDArray[np.float64], now_s: float) -> Pace:
    """The pace of parts written at these times (NaN: not told), with so much audio each. Pure."""
    told = ~np.isnan(written_s)
    order = np.argsort(written_s[told], kind="stable")
    times_s, sizes_s = written_s[told][order], audio_s[told][order]
    if not len(times_s):
        return Pace(None, None, 0.0, False)
    age_s = max(0.0, now_s - float(times_s[-1]))
    lately = times_s >= times_s[-1] - _LATELY_S
    first = int(np.argmax(lately))
    over_s = float(times_s[-1] - times_s[first])
    # What the first of them holds was worked on before it was written.
    speed = rtfx(float(sizes_s[first + 1 :].sum()), over_s) if first + 1 < len(times_s) else None
    gap_s = over_s / max(1, len(times_s) - 1 - first)
    return Pace(age_s, speed, over_s, age_s <= max(_AT_LEAST_QUIET_S, _USUAL_GAPS * gap_s))


def status_text(status: Status) -> str:
    """What `quarry status` prints."""
    done = f"{status.shards_done} of {status.shards} shards done"
    hours = f"{status.audio_done_s / 3600:.2f} of {status.audio_s / 3600:.2f} h"
    lines = [f"{status.run_id}: {done}, {hours}."]
    lines += _pace_lines(status)
    if status.failure_codes:
        codes = ", ".join(f"{code} {count:,}" for code, count in sorted(status.failure_codes.items()))
        lines.append(f"  failed or partial rows: {codes}")
    if status.snapshot is not None:
        lines.append(f"  snapshot {status.snapshot}")
    more = status.sessions - len(status.latest_sessions)
    lines += [f"  … and {more} sessions before"] if more > 0 else []
    for session in status.latest_sessions:
        speed = rtfx(session.audio_s, session.wall_s) or 0.0
        lines.append(
            f"  {session.started_at}  {session.shards} shards in {clock(session.wall_s)}, {speed:.1f}× real time"
        )
    for one in status.retries:
        lines.append(f"retry {one.id}: {one.shards_done} of {one.shards} shards done.")
    return "\n".join(lines)


def _pace_lines(status: Status) -> list[str]:
    pace = status.pace
    if pace.last_part_age_s is None or status.exit_code == 0:
        return []
    said = [f"last part {clock(pace.last_part_age_s)} ago"]
    if not pace.is_going:
        return [f"  {said[0]}: the run may have stopped; its command resumes it"]
    if pace.rtfx:
        said.append(f"{pace.rtfx:.1f}× real time over {clock(pace.over_s)}")
    if status.eta_s is not None:
        said.append(f"about {clock(status.eta_s)} left")
    return [f"  {', '.join(said)}"]


def _listed(ledger: Ledger) -> tuple[pa.Array, npt.NDArray[np.float64]]:
    """Ids and times of every part. One listing."""
    ids: list[str] = []
    times: list[float] = []
    for part in list_parts(ledger.store):
        ids.append(part.shard_id)
        times.append(np.nan if part.modified_s is None else part.modified_s)
    return pa.array(ids, pa.string()), np.array(times, np.float64)


def _failures(ledger: Ledger, count: int) -> dict[str, int] | None:
    """Codes of the failed and partial rows in the parts, where these are few."""
    return failure_codes(ledger, list(list_parts(ledger.store))) if count <= _FEW_PARTS else None


def failure_codes(ledger: Ledger, parts: Sequence[Part]) -> dict[str, int]:
    """Codes of the failed and partial rows of some parts."""
    found: dict[str, int] = {}
    for part in parts:
        for failure in read_part(ledger.store, part, ["failure"])["failure"].drop_null().to_pylist():
            found[failure["code"]] = found.get(failure["code"], 0) + 1
    return found


def _retries(ledger: Ledger) -> list[RetryStatus]:
    found = []
    for one in list_retries(ledger.store):
        planned = one.ledger.entries()
        left = one.ledger.todo(planned).num_rows
        found.append(RetryStatus(one.id, planned.num_rows - left, planned.num_rows))
    return found
