"""A finished run as people look at it: `from pipeline import find_run`. What the notebooks are written on.

    run = find_run("out/demo-1f3ac9d2")
    run.error_rates(), run.flags(), run.worst(8)

Tables of sums are pandas DataFrames, small however large the run is; the rows themselves come from `run.table`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import DecodeConfig, SourceConfig, StoreConfig
from pipeline.errors import RunError
from pipeline.export.options import ExportOptions
from pipeline.export.run import Exported, export
from pipeline.export.supply import supply
from pipeline.metrics.rtfx import heard_s, padding_waste, rtfx
from pipeline.reading import RunTable, snapshot_of, table_of
from pipeline.records import SAMPLE_RATE_HZ
from pipeline.report.doubts import NO_DOUBT, Doubt
from pipeline.report.facts import Facts, gather, waiting_of
from pipeline.report.figures import plural
from pipeline.report.histogram import Histogram
from pipeline.report.markup import shown
from pipeline.report.quality import FLAG_MEANINGS, error_rates
from pipeline.report.slices import Slice
from pipeline.report.snippets import Ear, reader_of
from pipeline.report.waiting import Interval
from pipeline.source.opening import is_local
from pipeline.store.objects import ObjectStore
from pipeline.store.snapshot import Snapshot

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas

RUN_VARIABLE = "QUARRY_RUN"
DEMO_OUTPUT = Path("demo/out")  # of `make demo`, in the checkout
_MOST_DOUBTS = 100
_LONGEST_LABEL = 40  # characters


@dataclass(frozen=True, slots=True)
class Sound:
    """What there is to hear of a stretch: float32 [n], mono, -1 to 1. Empty for the `reason`. `is_cut`: only its beginning."""

    samples: npt.NDArray[np.float32]
    is_cut: bool = False
    reason: str = ""
    rate_hz: int = SAMPLE_RATE_HZ


def find_run(
    uri_or_folder: str | os.PathLike[str] | None = None,
    snapshot: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> FinishedRun:
    """A run by its own folder or uri; without one that which QUARRY_RUN names, else the newest that `make demo` left.

    A relative folder is one from here, or from a folder above: notebooks lie in a folder of their own.
    `storage_options` are fsspec's, for the run and its recordings; without them, what the environment offers. Raises RunError
    where there is no finished run, StoreError.
    """
    named = os.fspath(uri_or_folder or os.environ.get(RUN_VARIABLE) or _newest_demo())
    uri = named if "://" in named else str(_above(named))
    options = dict(storage_options or {})
    store = ObjectStore.open(uri, StoreConfig(storage_options=options))
    return FinishedRun(store, snapshot_of(store, snapshot), options)


def _newest_demo() -> Path:
    here = Path.cwd()
    snapshots = [path for folder in (here, *here.parents) for path in (folder / DEMO_OUTPUT).glob("*/snapshots/*.json")]
    if not snapshots:
        raise RunError(
            f"There is no run to look at: set {RUN_VARIABLE} to the folder or uri of a finished run, or let `make demo` make one."
        )
    return max(snapshots, key=lambda path: path.stat().st_mtime).parent.parent


def _above(path: str | Path, *first: Path) -> Path:
    """A relative path from the first of some folders, of this one and those above, from which it exists; else from this one."""
    here = Path.cwd()
    return next((folder / path for folder in (*first, here, *here.parents) if (folder / path).exists()), here / path)


@dataclass(frozen=True)
class FinishedRun:
    """One snapshot of a run. Methods raise StoreError; what needs a pass over the tables is read once."""

    store: ObjectStore
    snapshot: Snapshot
    storage_options: Mapping[str, Any]

    def __str__(self) -> str:
        totals = self.totals
        return (
            f"{self.run['run_id']}: {plural(totals['recordings'], 'recording')}, {totals['audio_s'] / 3600:,.2f} h, "
            f"heard by {self.run['engine']} {self.run['model']} (snapshot {self.snapshot.number})"
        )

    __repr__ = __str__

    @property
    def run(self) -> dict[str, Any]:
        """The run's run.json: settings, versions, totals, sessions, cost."""
        return self.snapshot.run

    @property
    def totals(self) -> dict[str, Any]:
        """Its sums over all recordings: `wer`, `audio_s`, `engine_s` …"""
        found: dict[str, Any] = self.run["totals"]
        return found

    @property
    def tables(self) -> dict[str, int]:
        """Rows by table."""
        return {name: sum(int(file["rows"]) for file in files) for name, files in self.snapshot.files.items()}

    def table(self, name: str = "transcripts") -> RunTable:
        """One table: its rows as pandas, Arrow or a DuckDB relation. Raises ConfigError for one that is not there."""
        return table_of(self.store, self.snapshot, name)

    @cached_property
    def facts(self) -> Facts:
        """Everything that a report tells, from one pass over the tables."""
        return gather(self.store, self.snapshot, _MOST_DOUBTS)

    def statuses(self) -> pandas.Series[int]:
        """Recordings by status, those that occur."""
        import pandas

        counts = {status: self.totals[status] for status in ("ok", "partial", "failed", "skipped")}
        return pandas.Series({status: count for status, count in counts.items() if count}, name="recordings", dtype=int)

    def lengths(self) -> pandas.DataFrame:
        """Recordings by length: bins `low` to `high` in seconds, `count`."""
        return _bars(self.facts.durations)

    def confidences(self) -> pandas.DataFrame:
        """Segments by the engine's confidence: bins `low` to `high`, `count`; empty where it gives none."""
        return _bars(self.facts.confidences)

    def error_rates(self) -> pandas.DataFrame:
        """Word error rates by `slicing` and `value`, with 95 % intervals `low` to `high`; NaN where nothing was scored."""
        import pandas

        rows = [
            {"slicing": _label(name), **asdict(one), "value": _label(one.value)}
            for name, slices in error_rates(self.facts).items()
            for one in slices
        ]
        found = pandas.DataFrame(rows, columns=["slicing", *(field.name for field in fields(Slice))])
        return found.astype(dict.fromkeys(("wer", "low", "high"), float))

    def flags(self) -> pandas.DataFrame:
        """What was flagged, most audio first: `flag`, `pieces`, `recordings`, `audio_s`, `share` of all audio, `meaning`."""
        import pandas

        whole_s = self.totals["audio_s"] or 1.0
        rows = [
            {"flag": _label(name), **found, "share": found["audio_s"] / whole_s, "meaning": FLAG_MEANINGS.get(name, "")}
            for name, found in (self.totals.get("flags") or {}).items()
            if name not in NO_DOUBT
        ]
        return pandas.DataFrame(rows, columns=["flag", "pieces", "recordings", "audio_s", "share", "meaning"])

    def failures(self) -> pandas.DataFrame:
        """What went wrong by code, most frequent first: `code`, `stage`, `failed`, `partial`, `example`, `message`."""
        import pandas

        rows = [
            {
                "code": _label(code),
                "stage": group.stage,
                "failed": group.failed,
                "partial": group.partial,
                "example": group.examples[0]["recording_id"],
                "message": group.examples[0]["message"],
            }
            for code, group in self.facts.failures.items()
        ]
        return pandas.DataFrame(rows, columns=["code", "stage", "failed", "partial", "example", "message"])

    def worst(self, most: int = 24) -> list[Doubt]:
        """Flagged stretches that should be looked at, worst first, a few of one recording; at most a hundred."""
        return self.facts.doubts[:most]

    def listen(self, stretches: Sequence[Doubt], roots: Sequence[str] = ()) -> Iterator[tuple[Doubt, Sound]]:
        """Each stretch with its sound, decoded as the run decoded it, in a process of its own; never raises for one of them.

        `roots`: folders and buckets that may be read, in place of the run's own.
        """
        made_with = {**self.run["config"], "manifest": self._manifest()}
        source = SourceConfig(storage_options=dict(self.storage_options), roots=list(roots))
        with reader_of(made_with, DecodeConfig(), source) as reader:
            ear = Ear(reader)
            for stretch in stretches:
                heard = ear.hear(stretch)
                yield stretch, Sound(heard.samples.astype(np.float32) / np.float32(32_768), heard.is_cut, heard.reason)

    def speed(self) -> pandas.DataFrame:
        """Both RTFx and the shares behind them: `figure`, `value`, `meaning`."""
        import pandas

        totals, sessions = self.totals, self.run["sessions"]
        wall_s, audio_s = (sum(one[name] for one in sessions) for name in ("wall_s", "audio_s"))
        there_s = totals["engine_s"] + totals["wait_s"]
        rows = [
            ("pipeline RTFx", rtfx(audio_s, wall_s), "seconds of audio per second of wall time, start-up included"),
            ("engine RTFx", rtfx(heard_s(totals), totals["engine_s"]), "seconds of audio per second in the engine"),
            ("engine busy", totals["engine_s"] / there_s if there_s else None, "share of its time that it computed"),
            (
                "padding",
                padding_waste(totals["engine_audio_s"], totals["padded_s"]),
                "share of what it computed that was no audio",
            ),
            (
                "speech",
                totals["engine_audio_s"] / heard_s(totals) if totals["audio_s"] else None,
                "share of the audio that it was given",
            ),
        ]
        return pandas.DataFrame(rows, columns=["figure", "value", "meaning"]).astype({"value": float})

    def stage_waiting(self) -> pandas.DataFrame:
        """Over wall time (`start_s`, `end_s`): engine workers `busy` and `waiting`, decoded shards `in_line`; may be empty."""
        import pandas

        rows = [asdict(one) for one in waiting_of(self.store, self.snapshot).intervals()]
        return pandas.DataFrame(rows, columns=[field.name for field in fields(Interval)])

    def sessions(self) -> pandas.DataFrame:
        """Each time the run was begun or resumed: `started_at`, `wall_s`, `first_commit_s`, `audio_s`, `rtfx`, `hardware` …"""
        import pandas

        rows = [
            {
                **{key: value for key, value in one.items() if key != "versions"},
                "rtfx": rtfx(one["audio_s"], one["wall_s"]),
            }
            for one in self.run["sessions"]
        ]
        columns = ["started_at", "wall_s", "first_commit_s", "audio_s", "rtfx", "shards", "engine_workers", "hardware"]
        return pandas.DataFrame(rows, columns=columns)

    def costs(self) -> pandas.DataFrame:
        """What the plan expected beside what was spent: a column each, where it is known; rows as in docs/cost.md."""
        import pandas

        sides = {side: found for side, found in (self.run.get("cost") or {}).items() if found}
        rows = ["audio_h", "engine_h", "wall_h", "usd", "usd_per_audio_h"]
        return pandas.DataFrame(sides, index=rows, dtype=float)

    def pair_hours(self, options: ExportOptions, max_wers: Sequence[float | None]) -> pandas.DataFrame:
        """Hours of pairs under each limit of the word error rate: `max_wer`, `pairs`, `hours`, and `left_out_h` by reason."""
        import pandas

        return pandas.DataFrame([asdict(one) for one in supply(self.table(), options, max_wers)])

    def export(self, options: ExportOptions) -> Exported:
        """Write this snapshot as files, as `quarry export` does. Raises ConfigError, RunError, StoreError."""
        from dataclasses import replace

        config = StoreConfig(storage_options=dict(self.storage_options))
        return export(self.store, config, replace(options, snapshot=self.snapshot.number))

    def _manifest(self) -> str:
        """The manifest's place: a relative path is one from the folder in which the run was begun, or from one above this."""
        manifest, output = str(self.run["config"]["manifest"]), str(self.run["config"]["output"])
        if not is_local(manifest) or os.path.isabs(manifest):
            return manifest
        begun_in = os.path.dirname(str(self.run["uri"])).removesuffix(os.path.normpath(output))
        return str(_above(manifest, *([Path(begun_in)] if is_local(output) and not os.path.isabs(output) else [])))


def _bars(histogram: Histogram) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame([asdict(bar) for bar in histogram.bars()], columns=["low", "high", "count"])


def _label(text: str) -> str:
    """Short, on one line, nothing that cannot be seen: values come from manifests."""
    return " ".join(shown(text, _LONGEST_LABEL).split())
