"""What happens in a run, for programs: `runtime.events` names a file, or "-" for stdout. One JSON object per line.

EVENTS declares every event and field; docs/events.md is written from it. A line goes out in one write, so that a driver that is
killed leaves whole lines, and two drivers may share a file (`session` tells them apart). Nothing here can end a run: a full disk,
or a reader that is gone, is said once on stderr.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal
from uuid import uuid4

from pipeline.errors import ConfigError, QuarryError, exit_code_of
from pipeline.records import Receipt, Undone
from pipeline.runtime.progress import Progress, say

if TYPE_CHECKING:
    from pipeline.config import RunConfig

SCHEMA = 1
STDOUT = "-"

_USER_INFO = re.compile(r"://[^/@]*@")

Kind = Literal["string", "integer", "number", "object", "array"]


@dataclass(frozen=True, slots=True)
class Field:
    """A field of an event."""

    kind: Kind
    meaning: str
    nullable: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """An event: when it comes, and its fields beside those of COMMON."""

    when: str
    fields: Mapping[str, Field] = field(default_factory=dict)


def _text(meaning: str, nullable: bool = False) -> Field:
    return Field("string", meaning, nullable)


def _count(meaning: str, nullable: bool = False) -> Field:
    return Field("integer", meaning, nullable)


def _number(meaning: str, nullable: bool = False) -> Field:
    return Field("number", meaning, nullable)


COMMON = {
    "schema": _count(f"version of these fields: {SCHEMA}. Fields may be added under the same version"),
    "event": _text("which event it is"),
    "time": _text("when, in UTC, ISO 8601 with milliseconds, by the driver's clock"),
    "run_id": _text("the run, as in the tables"),
    "session": _text("8 hex digits for this process: tells drivers apart that write into one file"),
    "number": _count("counts the events of the session from 0"),
}

EVENTS = {
    "run_started": Event(
        "first of all, before the manifest is read",
        {
            "command": _text("run | retry"),
            "version": _text("of Quarry"),
            "uri": _text("the run's folder, without credentials"),
            "engine": _text("engine.name"),
            "model": _text("engine.model"),
            "runtime": _text("ray | local"),
            "engine_workers": _count("engines that work side by side"),
        },
    ),
    "plan": Event(
        "when it is known what is to do",
        {
            "recordings": _count("in the plan"),
            "shards": _count("in the plan"),
            "audio_s": _number("seconds of audio in the plan"),
            "shards_done": _count("that had been done before"),
            "audio_done_s": _number("seconds of audio in them"),
        },
    ),
    "shard_done": Event(
        "when a shard is published; its figures are those of the metrics (monitoring.md)",
        {
            "shard_id": _text("the shard, as in the table shards"),
            "outcome": _text("won: published now; exists: another attempt had published it"),
            "rows": _count("rows in it; each window of a long recording is one"),
            "ok": _count("rows that are ok"),
            "partial": _count("rows of which something is missing"),
            "failed": _count("rows without text"),
            "failure_codes": Field("object", "code → rows, failed and partial"),
            "languages": Field("object", "language → seconds of audio; other: none that an engine here knows"),
            "audio_s": _number("seconds of audio decoded"),
            "engine_audio_s": _number("seconds of speech given to the engine"),
            "padded_s": _number("seconds the engine computed for them, padding included"),
            "draft_s": _number("seconds whose text is the engine's unedited draft"),
            "batches": _count("batches on the engine"),
            "backoffs": _number("batches that ran out of memory and were halved"),
            "decode_cpu_s": _number("CPU seconds of the decoder"),
            "decode_s": _number("wall seconds to fetch, decode and cut"),
            "decode_wait_s": _number("seconds that worker stood idle before"),
            "queued_s": _number("seconds the decoded shard waited for the engine"),
            "engine_s": _number("seconds in the engine"),
            "engine_wait_s": _number("seconds the engine stood idle before"),
            "store_s": _number("seconds to stitch, judge, score and put"),
            "store_wait_s": _number("seconds that worker stood idle before"),
        },
    ),
    "shard_failed": Event(
        "when a shard could not be finished: it has no part, and the same command tries it again",
        {
            "shard_id": _text("the shard"),
            "stage": _text("decode | transcribe | publish"),
            "message": _text("one sentence"),
            "refused": _count("1: a store refuses us, and someone has to mend that; else 0"),
        },
    ),
    "shards_lost": Event(
        "when a pass is over and shards came back without a word: their workers died again and again",
        {"count": _count("how many"), "shard_ids": Field("array", "the first few of them")},
    ),
    "poison": Event(
        "when audio is given up because it ended the engine's process",
        {"shard_id": _text("its shard"), "rows": _count("recordings, or windows of them")},
    ),
    "worker_died": Event(
        "with the first shard of a worker that took the place of one that died (Ray)",
        {"stage": _text("decode | engine | store"), "shard_id": _text("that first shard")},
    ),
    "stage_waiting": Event(
        "when the stage that the others wait for has changed",
        {
            "stage": _text("decode | engine | store; null: none holds the others up", nullable=True),
            "busy": Field("object", "stage → share of its workers' time in which they worked, of late"),
        },
    ),
    "progress": Event(
        "every ten seconds while shards are being done, and when a pass is over",
        {
            "shards_done": _count("of the plan, earlier sessions' included"),
            "shards": _count("in the plan"),
            "audio_done_s": _number("seconds of audio in the shards that are done"),
            "audio_s": _number("seconds of audio in the plan"),
            "elapsed_s": _number("since the pass began"),
            "rtfx_now": _number("seconds of audio per second, of late"),
            "rtfx_mean": _number("the same since the pass began, start-up included"),
            "eta_s": _number("seconds left at the speed of late; null: not known", nullable=True),
            "usd": _number("what the pass has cost; null: no price is given", nullable=True),
            "failed": _count("rows that failed in this pass"),
            "partial": _count("rows of which something is missing, in this pass"),
            "undone": _count("shards that could not be finished in this pass"),
        },
    ),
    "finalize": Event(
        "when the tables and the snapshot are written",
        {
            "snapshot": _count("its number"),
            "tables": _text("folder of the tables inside the run's"),
            "recordings": _count("in the tables"),
            "ok": _count("of them"),
            "partial": _count("of them"),
            "failed": _count("of them"),
        },
    ),
    "finished": Event(
        "last of all, whatever happened; where it is missing, the driver was killed",
        {
            "exit_code": _count("the command's (README.md)"),
            "message": _text("what ended it, in one sentence; null: it came to its end", nullable=True),
            "shards_left": _count("shards that are not done; null: not known", nullable=True),
        },
    ),
}


class EventLog:
    """Writes events to a file, to stdout, or (None) nowhere. Safe in threads.

    Raises ConfigError when the file cannot be opened.
    """

    def __init__(self, target: str | None, run_id: str) -> None:
        self._run_id, self._session = run_id, uuid4().hex[:8]
        self._lock = threading.Lock()
        self._number = 0
        self._descriptor = None if target is None else _open(target)
        self._is_file = target != STDOUT

    @property
    def is_on(self) -> bool:
        """Whether anybody wants events."""
        return self._descriptor is not None

    def tell(self, event: str, **fields: Any) -> None:
        """Write one event, with exactly the fields that EVENTS declares."""
        with self._lock:
            if self._descriptor is None:
                return
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            common = (SCHEMA, event, time, self._run_id, self._session, self._number)
            line = json.dumps(dict(zip(COMMON, common, strict=True)) | fields, allow_nan=False) + "\n"
            self._number += 1
            try:
                _write(self._descriptor, line.encode())
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if self._is_file and descriptor is not None:
            os.close(descriptor)
        say(f"quarry: no more events can be written ({error.strerror}); the run goes on without them.")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            if self._is_file and self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = None

    def finish(self, exit_code: int, shards_left: int | None, message: str | None = None) -> None:
        """The event `finished`."""
        self.tell("finished", exit_code=exit_code, message=message, shards_left=shards_left)

    def tell_of(self, receipt: Receipt | Undone) -> None:
        """The events of one shard."""
        if isinstance(receipt, Undone):
            said = {"stage": receipt.stage, "message": receipt.message, "refused": int(receipt.refused)}
            self.tell("shard_failed", shard_id=receipt.shard_id, **said)
            return
        for stage in receipt.replaced:
            self.tell("worker_died", stage=stage, shard_id=receipt.shard_id)
        self.tell("shard_done", **shard_fields(receipt))
        if poisoned := receipt.failure_codes.get("poison"):
            self.tell("poison", shard_id=receipt.shard_id, rows=poisoned)

    def tell_progress(self, progress: Progress) -> None:
        """The event `progress`."""
        self.tell("progress", **{name: getattr(progress, name) for name in EVENTS["progress"].fields})


@contextmanager
def telling(config: RunConfig, command: str, run_id: str, uri: str) -> Iterator[EventLog]:
    """The events of one command, from `run_started` to `finished`: the body tells that one itself unless it raises."""
    events = EventLog(config.runtime.events, run_id)
    runtime = config.runtime
    try:
        events.tell(
            "run_started",
            command=command,
            version=version("quarry-asr"),
            uri=_USER_INFO.sub("://…@", uri),
            engine=config.engine.name,
            model=_USER_INFO.sub("://…@", config.engine.model),
            runtime=runtime.kind,
            engine_workers=runtime.engine_workers if runtime.kind == "ray" else 1,
        )
        yield events
    except BaseException as error:
        events.finish(exit_code_of(error), None, _sentence(error))
        raise
    finally:
        events.close()


def _sentence(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    name = "" if isinstance(error, QuarryError) else f"{type(error).__name__}: "
    return (name + " ".join(str(error).split()))[:500]


def shard_fields(receipt: Receipt) -> dict[str, Any]:
    """The fields of `shard_done`."""
    other_names = {
        "decode_cpu_s": receipt.decode_s,
        "decode_s": receipt.decoding.busy_s,
        "decode_wait_s": receipt.decoding.wait_s,
        "engine_wait_s": receipt.wait_s,
        "store_s": receipt.publishing.busy_s,
        "store_wait_s": receipt.publishing.wait_s,
        "failure_codes": dict(receipt.failure_codes),
        "languages": dict(receipt.languages),
    }
    names = EVENTS["shard_done"].fields
    return {name: other_names[name] if name in other_names else getattr(receipt, name) for name in names}


def _open(target: str) -> int:
    """A descriptor to append to; what a crash of the machine may have left of a line is closed off first."""
    if target == STDOUT:
        try:
            sys.stdout.flush()
            # Past Python's buffer: what it could not pass on to a reader that is gone would change the exit code.
            return sys.stdout.fileno()
        except OSError:
            raise ConfigError("runtime.events=- needs a standard output; name a file.") from None
    if "://" in target:
        raise ConfigError(
            f"runtime.events cannot be {target!r}: object stores do not append; give a local file, or '-'."
        )
    try:
        descriptor = os.open(target, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        size_bytes = os.fstat(descriptor).st_size
        if size_bytes and os.pread(descriptor, 1, size_bytes - 1) != b"\n":
            _write(descriptor, b"\n")
    except OSError as error:
        raise ConfigError(
            f"runtime.events cannot be written to {target} ({error.strerror}); name another file."
        ) from None
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    """All of it: a pipe may take less at once than it is given."""
    while data:
        data = data[os.write(descriptor, data) :]


NO_EVENTS = EventLog(None, "")
