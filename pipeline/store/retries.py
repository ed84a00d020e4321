"""The retries of a run: where they lie, which are finished, and what they make of the run's transcripts.

<run>/retries/<snapshot>-<settings>/   plan, parts and sessions of one retry, laid out as a run's are

A retry is a run of its own whose recordings are stretches of the run's. It changes no object of the run: finalize merges what
finished retries heard, in the order of their names, each time it makes the tables. One that is not finished is as if it were not.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import ScoreConfig
from pipeline.errors import StoreError
from pipeline.records import RunIdentity, Transcript
from pipeline.schema import TRANSCRIPTS, column, transcript_of, transcripts_table
from pipeline.store.joining import WindowJoiner
from pipeline.store.ledger import Ledger, PlanPart
from pipeline.store.objects import ObjectStore
from pipeline.store.parts import Part, list_parts, stats_of
from pipeline.store.verify import part_tables, rows_match
from pipeline.text.choice import RETRIED, Guard
from pipeline.text.mending import HeardAgain, Verdict, mend
from pipeline.text.transcript import scored

FOLDER = "retries"

RETRIES = pa.schema(
    [
        column("recording_id", pa.string(), "id in transcripts"),
        column("start_s", pa.float64(), "seconds from the recording's start"),
        column("end_s", pa.float64(), "seconds from the recording's start; null: all of a recording that had failed"),
        column("channel", pa.int32(), "channel of a recording that was split; null: all that was heard of it"),
        column("first_text", pa.string(), "what stood there before"),
        column("first_flags", pa.list_(pa.string()), "its quality flags (quality.md)"),
        column("first_confidence", pa.float32(), "its segments' confidence, by their letters; null where one has none"),
        column("second_text", pa.string(), "what the second engine heard"),
        column("second_flags", pa.list_(pa.string()), "its quality flags"),
        column("second_confidence", pa.float32(), "its segments' confidence, by their letters"),
        column("second_failure", pa.string(), "code of what went wrong with the second try; null: nothing"),
        column("choice", pa.string(), "first | second: which of them is in transcripts"),
        column("reason", pa.string(), "why, in one word (retry.md)"),
        column("engine", pa.string(), "the second engine; the first is the one in transcripts, or an earlier retry's"),
        column("model", pa.string(), "its model"),
        column("model_revision", pa.string(), "revision or hash of its weights"),
        column("fingerprint", pa.string(), "of the second engine's settings and the guard's"),
        column("retry_id", pa.string(), "folder of the retry in retries/"),
        column("run_id", pa.string(), "the run that made the row"),
    ],
    metadata=TRANSCRIPTS.metadata,
)


@dataclass(frozen=True, slots=True)
class Retry:
    """One retry of a run, planned."""

    id: str
    ledger: Ledger
    plan: PlanPart

    @property
    def guard(self) -> Guard:
        """What must hold before a text is replaced, as it was when the retry was planned."""
        return Guard(**self.plan.config["guard"])


@dataclass(frozen=True, slots=True)
class FinishedRetry:
    """A retry of which every part is there."""

    retry: Retry
    parts: dict[str, Part]

    @property
    def digest(self) -> str:
        """Names its state, as the run's parts name the run's."""
        state = hashlib.sha256(f"{self.retry.id}:{self.retry.plan.sha256}\n".encode())
        for shard_id, part in sorted(self.parts.items()):
            state.update(f"{shard_id}:{part.size_bytes}:{part.etag}\n".encode())
        return state.hexdigest()


def retry_ledger(store: ObjectStore, retry_id: str) -> Ledger:
    """The bookkeeping of one retry of the run at `store`."""
    return Ledger(store.below(f"{FOLDER}/{retry_id}"))


def list_retries(store: ObjectStore) -> list[Retry]:
    """Every retry that was planned, in the order in which they are merged: that of the snapshots they were made from."""
    keys = (info.key.split("/") for info in store.list(f"{FOLDER}/"))
    ids = {key[1] for key in keys if key[2:3] == ["plan"] and key[-1].endswith(".json")}
    ledgers = {retry_id: retry_ledger(store, retry_id) for retry_id in sorted(ids)}
    return [Retry(retry_id, ledger, ledger.plan_parts()[0]) for retry_id, ledger in ledgers.items()]


def finished_retries(store: ObjectStore) -> list[FinishedRetry]:
    """Those of which every part is there."""
    found = []
    for retry in list_retries(store):
        parts = {part.shard_id: part for part in list_parts(retry.ledger.store)}
        if set(retry.ledger.entries()["shard_id"].to_pylist()) <= parts.keys():
            found.append(FinishedRetry(retry, parts))
    return found


class Retried:
    """What finished retries heard, by recording; mends tables of transcripts with it.

    Holds the stretches' rows as Arrow tables and an index of them: as much as was retried, whatever the run's size.
    Raises StoreError when a part is unreadable or not what was planned.
    """

    def __init__(self, finished: Sequence[FinishedRetry]) -> None:
        self._retries = [one.retry for one in finished]
        self._tables: list[pa.Table] = []
        self._places: dict[str, list[tuple[int, int, int]]] = {}  # recording → (retry, table, row) of its stretches
        self._reasons = [Counter[str]() for _ in finished]
        self._replaced = [0 for _ in finished]
        self._audio_s = [0.0 for _ in finished]
        self._engine_s = [0.0 for _ in finished]
        for number, one in enumerate(finished):
            self._read(number, one)

    def __bool__(self) -> bool:
        return bool(self._retries)

    def mend(self, rows: pa.Table, scoring: ScoreConfig) -> tuple[pa.Table, pa.Table]:
        """Rows of TRANSCRIPTS, whole recordings, as they should stand; and a row of RETRIES for every stretch of theirs."""
        touched = pa.array([id_ in self._places for id_ in rows["id"].to_pylist()], pa.bool_())
        if not pc.any(touched).as_py():
            return rows, RETRIES.empty_table()
        tables, tried = [rows.filter(pc.invert(touched))], list[dict[str, Any]]()
        for raw in rows.filter(touched).to_pylist():
            identity = RunIdentity(*(raw[name] for name in RunIdentity.__slots__))
            row = self._mended(transcript_of(raw), identity, tried)
            tables.append(transcripts_table([scored(row, scoring)], identity, raw["shard_id"]))
        return pa.concat_tables(tables), pa.Table.from_pylist(tried, schema=RETRIES)

    def summary(self) -> list[dict[str, Any]]:
        """What became of each retry, for run.json."""
        return [
            {
                "id": retry.id,
                **{name: retry.plan.config["engine"][name] for name in ("name", "model")},
                "model_revision": retry.plan.model_revision,
                "stretches": reasons.total(),
                "replaced": replaced,
                "reasons": dict(reasons.most_common()),
                "audio_s": audio_s,
                "engine_s": engine_s,
                "sessions": [asdict(session) for session in retry.ledger.sessions()],
            }
            for retry, reasons, replaced, audio_s, engine_s in zip(
                self._retries, self._reasons, self._replaced, self._audio_s, self._engine_s, strict=True
            )
        ]

    def _read(self, number: int, finished: FinishedRetry) -> None:
        joiner = WindowJoiner()
        for shard, rows in part_tables(finished.retry.ledger, finished.parts):
            if not isinstance(rows, pa.Table) or not rows_match(shard, rows):
                reason = (
                    rows if isinstance(rows, str) else f"The part of shard {shard.shard_id} is not what was planned;"
                )
                raise StoreError(f"{reason} it belongs to the retry {finished.retry.id}; `quarry verify` tells more.")
            self._audio_s[number] += pc.sum(rows["duration_s"]).as_py() or 0.0
            self._engine_s[number] += stats_of(rows).engine_s
            single = pc.equal(rows["window_count"], 1)
            self._index(number, rows.filter(single))
            for whole, shard_id in joiner.add(rows.filter(pc.invert(single))):
                self._index(number, transcripts_table([whole], _identity(rows), shard_id))

    def _index(self, number: int, rows: pa.Table) -> None:
        names = pc.map_lookup(rows["extra"].combine_chunks(), pa.scalar("recording"), "first").to_pylist()
        for row, name in enumerate(names):
            self._places.setdefault(name, []).append((number, len(self._tables), row))
        self._tables.append(rows)

    def _mended(self, row: Transcript, identity: RunIdentity, tried: list[dict[str, Any]]) -> Transcript:
        engine = _engine(identity)
        for number, again, raw in self._stretches(row.id):
            retry = self._retries[number]
            row, verdict = mend(row, again, engine, retry.guard)
            self._reasons[number][verdict.choice.reason] += 1
            self._replaced[number] += verdict.choice.second
            tried.append(_row(again, raw, verdict, retry, identity))
        return row

    def _stretches(self, recording_id: str) -> Iterator[tuple[int, HeardAgain, dict[str, Any]]]:
        """The recording's stretches, retry by retry, in order of time."""
        found = []
        for number, table, position in self._places[recording_id]:
            (raw,) = self._tables[table].slice(position, 1).to_pylist()
            extra = dict(raw["extra"])
            end_s = float(extra["end_s"]) if "end_s" in extra else None
            channel = int(extra["channel"]) if "channel" in extra else None
            heard = HeardAgain(float(extra["start_s"]), end_s, transcript_of(raw), _engine_of(raw), channel)
            found.append((number, heard, raw))
        yield from sorted(found, key=lambda one: (one[0], one[1].start_s))


def has_any(lists: pa.ChunkedArray, values: Sequence[str]) -> pa.Array:
    """Which of the lists hold one of the values."""
    whole = lists.combine_chunks()
    hits = pc.list_parent_indices(whole).filter(pc.is_in(whole.flatten(), value_set=pa.array(values, pa.string())))
    mask = np.zeros(len(whole), bool)
    mask[hits.to_numpy()] = True
    return pa.array(mask)


def _row(
    again: HeardAgain, raw: dict[str, Any], verdict: Verdict, retry: Retry, identity: RunIdentity
) -> dict[str, Any]:
    first, second = verdict.first, verdict.second
    return {
        "recording_id": dict(raw["extra"])["recording"],
        "start_s": again.start_s,
        "end_s": again.end_s,
        "channel": again.channel,
        "first_text": first.text,
        "first_flags": list(first.flags),
        "first_confidence": first.confidence,
        "second_text": second.text,
        "second_flags": [flag for flag in second.flags if flag != RETRIED],  # the mark is for transcripts
        "second_confidence": second.confidence,
        "second_failure": raw["failure"]["code"] if raw["failure"] else None,
        "choice": "second" if verdict.choice.second else "first",
        "reason": verdict.choice.reason,
        **{name: raw[name] for name in ("engine", "model", "model_revision", "fingerprint")},
        "retry_id": retry.id,
        "run_id": identity.run_id,
    }


def _identity(rows: pa.Table) -> RunIdentity:
    (raw,) = rows.select(list(RunIdentity.__slots__)).slice(0, 1).to_pylist()
    return RunIdentity(**raw)


def _engine(identity: RunIdentity) -> str:
    return f"{identity.engine} {identity.model} {identity.model_revision}"


def _engine_of(raw: dict[str, Any]) -> str:
    return f"{raw['engine']} {raw['model']} {raw['model_revision']}"
