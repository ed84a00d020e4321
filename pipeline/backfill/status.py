"""How a backfill stands, from its store alone: who is at work, and what the last night did. Nothing is written or asked.

One listing tells it (`book`, `pipeline.store.lease`); opened are the lock and the last night's log. Ages are by the clock of
the store.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pipeline.backfill.book import MANIFEST, Record, latest_records
from pipeline.backfill.run import Night, night_text
from pipeline.backfill.work import Result
from pipeline.config import StoreConfig
from pipeline.runtime.progress import clock
from pipeline.store.lease import has_gone, tenure_of
from pipeline.store.ledger import read_json
from pipeline.store.objects import ObjectInfo, ObjectStore

_FOLDER = "backfill"
_LOG = re.compile(r"log/\d{6,}\.json")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class AtWork:
    """Who holds the lock. Ages in seconds; None: the store tells no times."""

    owner: str
    since_s: float | None
    silent_s: float | None  # since the last sign of life
    lease_s: float
    is_gone: bool  # silent for longer than it promised: the next backfill takes over


@dataclass(frozen=True, slots=True)
class BackfillStatus:
    """How one backfill stands. Partitions are those that were ever worked on."""

    id: str
    uri: str
    done: int
    with_failures: int  # of them, those with failed or partial recordings
    not_done: tuple[str, ...]
    at_work: AtWork | None
    last_night: dict[str, Any] | None  # as logged

    @property
    def exit_code(self) -> int:
        """0 every partition is done · 3 some are not, and the same command goes on."""
        return 3 if self.not_done else 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def find_backfills(output: str, config: StoreConfig) -> list[BackfillStatus]:
    """The backfills into an output. Raises StoreError."""
    store = ObjectStore.open(output.rstrip("/") if "://" in output else os.path.abspath(output), config)
    listed = sorted(store.list(_FOLDER), key=lambda info: info.key)
    now_s = store.clock_s()
    found = groupby(listed, lambda info: "/".join(info.key.split("/")[:2]))
    return [_status(store.below(folder), _below(folder, infos), now_s) for folder, infos in found]


def backfills_text(found: list[BackfillStatus]) -> str:
    """What `quarry status OUTPUT` prints."""
    return "\n".join(line for one in found for line in _lines(one))


def _below(folder: str, infos: Iterator[ObjectInfo]) -> dict[str, ObjectInfo]:
    return {info.key.removeprefix(f"{folder}/"): info for info in infos}


def _status(store: ObjectStore, infos: dict[str, ObjectInfo], now_s: float) -> BackfillStatus:
    records = {label: record for label, record in latest_records(infos).items() if label != MANIFEST}
    logs = [key for key in infos if _LOG.fullmatch(key)]
    return BackfillStatus(
        id=store.uri.rpartition("/")[2],
        uri=str(store),
        done=sum(record.exit_code in (0, 1) for record in records.values()),
        with_failures=sum(record.exit_code == 1 for record in records.values()),
        not_done=tuple(sorted(label for label, record in records.items() if _is_left(record))),
        at_work=_at_work(store, infos, now_s),
        last_night=read_json(store, max(logs, key=lambda key: (len(key), key))) if logs else None,
    )


def _is_left(record: Record) -> bool:
    return record.exit_code not in (0, 1)


def _at_work(store: ObjectStore, infos: dict[str, ObjectInfo], now_s: float) -> AtWork | None:
    claim, signs = tenure_of(infos)
    said = read_json(store, claim) if claim else {}
    if not said:
        return None
    ages_s = [None if (time_s := infos[key].modified_s) is None else max(0.0, now_s - time_s) for key in signs]
    known = [age_s for age_s in ages_s if age_s is not None]
    lease_s = float(said["lease_s"])
    silent_s = min(known) if known else None
    return AtWork(
        str(said["owner"]), ages_s[0], silent_s, lease_s, silent_s is not None and has_gone(silent_s, lease_s)
    )


def _lines(one: BackfillStatus) -> Iterator[str]:
    known = one.done + len(one.not_done)
    parts = [f"{one.done:,} of {known:,} partitions done"]
    if one.with_failures:
        parts.append(f"{one.with_failures:,} with failed or partial recordings")
    yield f"backfill {one.id}: {', '.join(parts)}."
    if one.not_done:
        more = " …" if len(one.not_done) > _SHOWN else ""
        yield f"  not done: {', '.join(label.lstrip('_') for label in one.not_done[:_SHOWN])}{more}"
    yield f"  {_who(one.at_work)}"
    if one.last_night:
        night = _night_of(one.last_night)
        yield f"  last night: {night.started_at} to {_plain(one.last_night['ended_at'])}, exit code {night.exit_code}"
        yield from (f"    {_plain(line)}" for line in night_text(night).splitlines())


def _who(holder: AtWork | None) -> str:
    if holder is None:
        return "nobody is at work"
    since = "" if holder.since_s is None else f" for {clock(holder.since_s)}"
    sign = "" if holder.silent_s is None else f", last sign of life {clock(holder.silent_s)} ago"
    gone = ": it has ended without a word, and the next backfill takes over" if holder.is_gone else ""
    return f"at work{since}: {_plain(holder.owner)}{sign}{gone}"


def _night_of(logged: dict[str, Any]) -> Night:
    return Night(
        started_at=_plain(logged["started_at"]),
        results=[Result(**one) for one in logged["partitions"]],
        passed_over=Counter(logged["passed_over"]),
        stopped=logged["stopped"],
        exit_code=logged["exit_code"],
    )


def _plain(text: object) -> str:
    """What lies in a store may be anybody's words: no control characters to a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in str(text))


def as_json(found: list[BackfillStatus]) -> str:
    """What `quarry status --json OUTPUT` prints."""
    return json.dumps({"backfills": [one.as_dict() for one in found]}, indent=1)
