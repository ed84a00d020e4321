"""`quarry retry`: stretches of a finished run heard again on a second engine, and what is better put into its tables.

The retry is a run inside the run's folder (`store.retries`): its recordings are the stretches, its plan is made from the latest
snapshot and then never changed, its parts are put once. So the same command resumes it, and two drivers at once are harmless.
The choice between the hypotheses is made by finalize, from both of them (`text.choice`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.audio.reader import AudioReader
from pipeline.config import EngineConfig, RunConfig
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.engines.requests import Wish, primary_language, shortfall
from pipeline.errors import ConfigError, RunError
from pipeline.plan import PLAN_SCHEMA, plan_table
from pipeline.prepare import Progress, Run, open_ledger, run_id, run_uri
from pipeline.prices import terms_of
from pipeline.records import RunIdentity, Transcript
from pipeline.run import Outcome, tell_snapshot, work
from pipeline.runtime.events import NO_EVENTS, EventLog
from pipeline.schema import SCHEMA_VERSION, transcript_of
from pipeline.source.manifest import manifest_roots
from pipeline.source.probing import PROBE_FIELDS, probe_missing
from pipeline.store.ledger import Ledger
from pipeline.store.plan_file import PlanFile, write_plan_file
from pipeline.store.retries import has_any, list_retries, retry_ledger
from pipeline.store.snapshot import Snapshot, finalize, latest_snapshot
from pipeline.text.choice import MENDABLE, WEIGHTS
from pipeline.text.stretches import Stretch, channels_of, failed_stretches, flagged_stretches

_ROWS_AT_ONCE = 1_000
# Of the run's engine, what a second one takes over where it is not told otherwise.
_KEPT = frozenset({"language", "allowed_languages", "language_policy", "task", "device", "threads"})

Tried = dict[tuple[str, int | None], list[tuple[float, float]]]  # recording, channel → stretches that are decided


@dataclass(frozen=True, slots=True)
class PlannedRetry:
    """A retry that can start: `run` is the run inside the run, `base` the run whose stretches it hears."""

    id: str
    run: Run
    base: Ledger
    base_config: RunConfig
    base_identity: RunIdentity  # as the snapshot has it: the first engine need not be at hand any more


def second_engine(config: RunConfig) -> EngineConfig:
    """The engine of the retry. The same engine keeps what it is not told otherwise; another one the languages and the device.

    Raises ConfigError when it is given another task: its texts would not belong into the run.
    """
    first, given = config.engine, config.retry.engine
    if given is None:
        return first
    told = {name: getattr(given, name) for name in given.model_fields_set}
    if told.setdefault("task", first.task) != first.task:
        raise ConfigError(
            f"retry.engine.task cannot be {told['task']!r} in a run with engine.task={first.task}; leave it."
        )
    if told.get("name", first.name) != first.name:
        kept = {name: getattr(first, name) for name in _KEPT}
        return given.model_copy(update={**kept, **told})
    if "model" in told:
        told.setdefault("revision", None)
    return first.model_copy(update=told)


def prepare_retry(config: RunConfig, on_probe: Progress = lambda done, total: None) -> PlannedRetry | None:
    """Find what is to be heard again and plan it, or find the plan that was begun; None: there is nothing. Writes nothing.

    Raises ConfigError for settings that cannot be, RunError when the run is not finished.
    """
    second = config.model_copy(update={"engine": second_engine(config)})
    _check_settings(config, second)
    spec = _described(second.engine)
    terms = terms_of(second, spec)
    base, snapshot = _finished_run(config)
    decoding = _fingerprint({"text": second.text_settings(), "revision": spec.revision, "guard": _guard(config)})
    settings = _fingerprint({"decoding": decoding, "selection": _selection(config)})
    of_base = {name: snapshot.run[name] for name in RunIdentity.__slots__}
    identity = RunIdentity(of_base["run_id"], decoding, spec.name, spec.model, spec.revision)
    roots = manifest_roots(config.manifest, config.source)

    def planned(retry_id: str, windows: PlanFile | None) -> PlannedRetry:
        ledger = retry_ledger(base.store, retry_id)
        existing = () if windows is not None else tuple(ledger.plan_parts())
        run = Run(second, spec, identity, roots, ledger, existing, windows, settings, terms)
        return PlannedRetry(retry_id, run, base, config, RunIdentity(**of_base))

    merged = {retry["id"] for retry in snapshot.run.get("retries", ())}
    for retry in list_retries(base.store):
        if retry.plan.fingerprint == settings and retry.id not in merged:
            return planned(retry.id, None)
    selected = _selected(base, snapshot, second, _tried(base, snapshot, decoding), spec.max_chunk_s)
    rows = _rows(selected, base, Wish.of_config(config.engine))
    if not rows.num_rows:
        return None
    _check_languages(rows, second, spec)
    plan = second.plan.model_copy(update={"shard_s": config.retry.shard_s})
    probed = _probed(rows, second, roots, on_probe)
    windows = write_plan_file([plan_table(probed, plan, 0, config.decode.max_audio_s)])
    return planned(f"{snapshot.number:05d}-{settings}", windows)


def unchanged_exit_code(config: RunConfig) -> int:
    """That of `quarry run` for the finished run as it is: nothing was to be heard again. Raises RunError."""
    _, snapshot = _finished_run(config)
    return 1 if snapshot.failed or snapshot.partial else 0


def execute_retry(
    retry: PlannedRetry, say: Callable[[str], None] = lambda line: None, events: EventLog = NO_EVENTS
) -> Outcome:
    """Write the plan if it is new, hear what is not done, finalize the run when all is. Raises RunError.

    No snapshot: shards of the retry are left, or, with none left, the run itself has grown and is not done.
    """
    outcome = work(_write_plan(retry), say, events)
    entries = retry.base.entries()
    if outcome.left or retry.base.todo(entries).num_rows:
        return outcome
    snapshot = finalize(retry.base, retry.base_config, retry.base_identity)
    tell_snapshot(events, snapshot)
    return replace(outcome, snapshot=snapshot)


def _check_settings(config: RunConfig, second: RunConfig) -> None:
    retry = config.retry
    if not retry.flagged and not retry.failed:
        raise ConfigError("A retry of neither flagged nor failed stretches does nothing; give --flagged or --failed.")
    unknown = sorted(set(retry.flags) - WEIGHTS.keys())
    if unknown:
        raise ConfigError(f"There is no flag {unknown[0]!r}; retry.flags can have: {', '.join(WEIGHTS)}.")
    if retry.flagged and second.text_settings()["engine"] == config.text_settings()["engine"]:
        raise ConfigError(
            "The retry's engine is the run's own, which would hear the same again; give --engine (and --model, or "
            "retry.engine.options), or only --failed."
        )


def _described(engine: EngineConfig) -> EngineSpec:
    try:
        return describe_engine(engine)
    except ConfigError as error:  # it speaks of `engine`, as every engine does
        raise ConfigError(f"The retry's engine cannot be had: {error}") from None


def _finished_run(config: RunConfig) -> tuple[Ledger, Snapshot]:
    """The run's bookkeeping and its latest snapshot. Raises RunError when there is none, or when the run is not done."""
    ledger = open_ledger(config)
    entries = ledger.entries()
    if not entries.num_rows:
        raise RunError(f"There is no run at {run_uri(config)}; `quarry run` with the same settings begins it.")
    left = ledger.todo(entries).num_rows
    snapshot = latest_snapshot(ledger.store)
    if left or snapshot is None:
        raise RunError(
            f"The run {run_id(config)} is not finished ({left} of {entries.num_rows} shards are left); "
            "`quarry run` with the same settings finishes it, then retry."
        )
    return ledger, snapshot


def _selected(
    base: Ledger, snapshot: Snapshot, second: RunConfig, tried: Tried, max_chunk_s: float
) -> Iterator[tuple[str, Stretch]]:
    """The stretches to be heard again, those of a recording together; only rows with a flag or a failure are looked into."""
    retry = second.retry
    flags = (set(retry.flags) or MENDABLE) if retry.flagged else frozenset[str]()
    languages = set(map(primary_language, retry.languages))
    longest_s = min(retry.stretch_s, max_chunk_s, second.plan.window_s)
    for rows in _rows_of(base, snapshot, "transcripts"):
        wanted = has_any(rows["flags"], sorted(flags))
        if retry.failed:
            wanted = pc.or_(wanted, pc.is_in(rows["status"], value_set=pa.array(["failed", "partial"])))
        for raw in rows.filter(wanted).to_pylist():
            row = transcript_of(raw)
            if languages and primary_language(row.language or "") not in languages:
                continue
            for stretch in _stretches(row, flags, retry.failed, longest_s, tried):
                yield row.id, stretch


def _stretches(
    row: Transcript, flags: Collection[str], failed: bool, longest_s: float, tried: Tried
) -> Iterator[Stretch]:
    for channel in channels_of(row):
        yield from flagged_stretches(row, flags, longest_s, tried.get((row.id, channel), ()), channel)
    if failed:
        yield from failed_stretches(row)


def _rows_of(base: Ledger, snapshot: Snapshot, table: str) -> Iterator[pa.Table]:
    """A table of the snapshot, a thousand rows at a time."""
    for file in snapshot.files.get(table, ()):
        parquet = pq.ParquetFile(BytesIO(base.store.get(str(file["key"]))))
        for batch in parquet.iter_batches(_ROWS_AT_ONCE):
            yield pa.Table.from_batches([batch])


def _tried(base: Ledger, snapshot: Snapshot, decoding: str) -> Tried:
    """What the same settings have decided before, in this run: to hear it again would say the same."""
    found: Tried = {}
    for rows in _rows_of(base, snapshot, "retries"):
        same = pc.and_(pc.equal(rows["fingerprint"], decoding), pc.is_null(rows["second_failure"]))
        decided = pc.and_(pc.and_(same, pc.not_equal(rows["reason"], "moved")), pc.is_valid(rows["end_s"]))
        for row in rows.filter(decided).select(["recording_id", "channel", "start_s", "end_s"]).to_pylist():
            found.setdefault((row["recording_id"], row["channel"]), []).append((row["start_s"], row["end_s"]))
    return found


def _rows(selected: Iterable[tuple[str, Stretch]], base: Ledger, asked: Wish) -> pa.Table:
    """The stretches as rows that can be planned: what the plan knows of their recordings, at another place.

    `extra` says where a stretch lies: "recording", "start_s" and, but for a whole recording, "end_s"; "channel" of a split
    one. `asked`: what the run's config asks for rows that say nothing else: a second engine translates into the same language.
    """
    ids, stretches = list[str](), list[Stretch]()
    for recording_id, stretch in selected:
        ids.append(recording_id)
        stretches.append(stretch)
    known = base.planned_recordings(pa.array(ids, pa.string()).unique())
    rows = known.take(pc.index_in(pa.array(ids, pa.string()), value_set=known["id"].combine_chunks()))
    whole = pa.array([stretch.end_s is None for stretch in stretches], pa.bool_())
    lengths_s = [None if stretch.end_s is None else stretch.end_s - stretch.start_s for stretch in stretches]
    given_s = pc.if_else(rows["open_end"], None, rows["duration_s"])  # a probed length is asked for again
    columns = {
        "id": pa.array(_numbered(ids), pa.string()),
        "offset_s": pc.add(rows["offset_s"], pa.array([stretch.start_s for stretch in stretches], pa.float64())),
        "duration_s": pc.if_else(whole, given_s, pa.array(lengths_s, pa.float64())),
        "channel": pc.coalesce(pa.array([stretch.channel for stretch in stretches], pa.int32()), rows["channel"]),
        "task": pc.fill_null(rows["task"], asked.task),
        "target_language": _targets(rows, asked),
        "reference_text": pa.nulls(len(ids), pa.string()),
        "extra": pa.array([_place(*one) for one in zip(ids, stretches, strict=True)], PLAN_SCHEMA.field("extra").type),
        "size_bytes": pc.if_else(whole, None, rows["size_bytes"]),  # another object may lie there now
        "etag": pc.if_else(whole, None, rows["etag"]),
    }
    for name, column in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), name, column)
    return rows


def _targets(rows: pa.Table, asked: Wish) -> pa.ChunkedArray:
    translated = pc.equal(pc.fill_null(rows["task"], asked.task), "translate")
    return pc.if_else(translated, pc.fill_null(rows["target_language"], asked.target), None)


def _numbered(ids: list[str]) -> Iterator[str]:
    """An id for each stretch: its recording's and its number there."""
    number = 0
    for position, recording_id in enumerate(ids):
        number = number + 1 if position and ids[position - 1] == recording_id else 0
        yield f"{recording_id}#{number}"


def _place(recording_id: str, stretch: Stretch) -> list[tuple[str, str]]:
    end = [] if stretch.end_s is None else [("end_s", repr(stretch.end_s))]
    channel = [] if stretch.channel is None else [("channel", str(stretch.channel))]
    return [("recording", recording_id), ("start_s", repr(stretch.start_s)), *end, *channel]


def _probed(rows: pa.Table, config: RunConfig, roots: tuple[str, ...], on_probe: Progress) -> pa.Table:
    """The rows with the lengths of recordings that failed as a whole, where an object has one now."""

    def open_reader() -> AudioReader:
        return AudioReader(config.decode, config.source, roots)

    missing = pc.is_null(rows["duration_s"])
    length = PROBE_FIELDS[0]
    known = rows.filter(pc.invert(missing))
    known = known.append_column(length, pa.nulls(known.num_rows, length.type))
    asked = rows.filter(missing).drop_columns(["size_bytes", "etag"])
    found = probe_missing(asked, open_reader, config.plan.probe_workers, on_probe)
    return pa.concat_tables([known, found.select(known.column_names)])


def _check_languages(rows: pa.Table, second: RunConfig, spec: EngineSpec) -> None:
    """Raises ConfigError when the engine cannot serve a stretch: half a retry is found out too late."""
    asked = Wish.of_config(second.engine)
    wishes = rows.group_by(["language", "task", "target_language"]).aggregate([([], "count_all")])
    for row in wishes.to_pylist():
        count = row["count_all"]
        lack = shortfall(asked.of_row(row["task"], row["language"], row["target_language"]), spec)
        if lack:
            raise ConfigError(
                f"{count} of {rows.num_rows} stretches cannot be heard again: the engine {lack}; "
                "give another one, or say with retry.languages which recordings are meant."
            )


def _write_plan(retry: PlannedRetry) -> Run:
    run = retry.run
    if run.new_windows is None:
        return run
    retry.base.store.check_writable()
    header = {
        "manifest": f"snapshot {retry.id.partition('-')[0]} of {retry.base_identity.run_id}",
        "manifest_digest": retry.id,
        "fingerprint": run.digest,
        "schema_version": SCHEMA_VERSION,
        "model_revision": run.spec.revision,
        "config": {
            **run.config.text_settings(),
            "guard": _guard(run.config),
            "selection": _selection(run.config),
        },
    }
    part = run.ledger.add_plan_part(0, run.new_windows, header)
    return replace(run, existing=(part,), new_windows=None)


def _guard(config: RunConfig) -> dict[str, float]:
    return {"min_coverage": config.retry.min_coverage, "min_gain": config.retry.min_gain}


def _selection(config: RunConfig) -> dict[str, Any]:
    return config.retry.model_dump(include={"flagged", "flags", "failed", "languages", "stretch_s", "shard_s"})


def _fingerprint(settings: dict[str, Any]) -> str:
    canonical = json.dumps(settings, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]
