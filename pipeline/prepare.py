"""From a config to a run that can start: everything is checked before anything is written.

Order: config → engine → manifest → store → plan. A run that exists is resumed; a manifest that has grown adds a plan part;
one that has changed is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.audio.reader import AudioReader
from pipeline.config import RunConfig
from pipeline.drift import PLANNED_COLUMNS, PlannedRows
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.errors import DriftError
from pipeline.metrics.cost import Expense, Terms, expected
from pipeline.plan import PlanTotals, add_totals, plan_blocks, plan_rows
from pipeline.prices import terms_of
from pipeline.records import RunIdentity
from pipeline.schema import SCHEMA_VERSION
from pipeline.source.manifest import MANIFEST_SCHEMA, manifest_digest, manifest_roots, read_manifest
from pipeline.source.probing import probe_blocks
from pipeline.spool import PlanSorter, RowFile, WorkingFiles
from pipeline.store.ledger import Ledger, PlanPart
from pipeline.store.objects import ObjectStore
from pipeline.store.plan_file import PlanFile, write_plan_file

Progress = Callable[[int, int], None]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its plan. `new_windows` is the plan part that this call would add; None when nothing is new."""

    config: RunConfig
    spec: EngineSpec
    identity: RunIdentity
    roots: tuple[str, ...]
    ledger: Ledger
    existing: tuple[PlanPart, ...]
    new_windows: PlanFile | None
    digest: str
    terms: Terms

    @property
    def expected(self) -> Expense:
        """What the plan should take and cost, all of it, on the terms of this call."""
        totals = self.totals
        return expected(totals.audio_s, self.terms, self.config.runtime.workers, totals.more_channels_s)

    @property
    def uri(self) -> str:
        """The run's folder."""
        return self.ledger.store.uri

    @property
    def totals(self) -> PlanTotals:
        """What the plan holds, the new part included."""
        planned = [part.totals for part in self.existing]
        if self.new_windows is not None:
            planned.append(self.new_windows.totals)
        return reduce(add_totals, planned, PlanTotals(0, 0, 0, 0.0, 0))


def run_id(config: RunConfig) -> str:
    """`<name>-<fingerprint>`: other text settings are another run; speed settings and a grown manifest are not."""
    stem = PurePosixPath(config.manifest.rstrip("/")).name.split(".")[0]
    name = config.name or re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "run"
    return f"{name}-{config.fingerprint()}"


def run_uri(config: RunConfig) -> str:
    """The folder of the run inside the output."""
    # Workers run in folders of their own, so a local path must not depend on where the command was typed.
    output = config.output if "://" in config.output else os.path.abspath(config.output)
    return f"{output.rstrip('/')}/{run_id(config)}"


def open_ledger(config: RunConfig) -> Ledger:
    """The bookkeeping of a config's run. Raises StoreError."""
    return Ledger(ObjectStore.open(run_uri(config), config.store))


def prepare(config: RunConfig, on_probe: Progress = lambda done, total: None, gone_ok: bool = False) -> Run:
    """Check everything and work out what the plan lacks. Writes nothing. Raises RunError.

    `gone_ok`: rows that were planned may be missing now, as audio that was removed is from a listing.
    """
    spec = describe_engine(config.engine)
    terms = terms_of(config, spec)
    digest = manifest_digest(config.manifest, config.source)
    ledger = open_ledger(config)
    existing = tuple(ledger.plan_parts())
    identity = RunIdentity(run_id(config), config.fingerprint(), spec.name, spec.model, spec.revision)
    roots = manifest_roots(config.manifest, config.source)
    if existing:
        _check_same_run(existing[0], config, spec)
    if existing and existing[-1].manifest_digest == digest:
        return Run(config, spec, identity, roots, ledger, existing, None, digest, terms)
    windows = _new_part(config, ledger, existing, roots, on_probe, gone_ok)
    return Run(config, spec, identity, roots, ledger, existing, windows, digest, terms)


def write_plan(run: Run) -> Run:
    """Write the plan part that is new, if one is; the run with it among the existing ones. Raises DriftError, StoreError."""
    if run.new_windows is None:
        return run
    run.ledger.store.check_writable()
    totals, workers = run.new_windows.totals, run.config.runtime.workers
    part = run.ledger.add_plan_part(
        len(run.existing),
        run.new_windows,
        {
            "manifest": run.config.public()["manifest"],
            "manifest_digest": run.digest,
            "fingerprint": run.config.fingerprint(),
            "schema_version": SCHEMA_VERSION,
            "model_revision": run.spec.revision,
            "expected": asdict(expected(totals.audio_s, run.terms, workers, totals.more_channels_s)),
            "config": run.config.text_settings(),
        },
    )
    run.new_windows.files.remove()  # now, for it may be large: not at the end of the run
    return replace(run, existing=(*run.existing, part), new_windows=None)


def _check_same_run(first: PlanPart, config: RunConfig, spec: EngineSpec) -> None:
    if first.schema_version != SCHEMA_VERSION:
        raise DriftError(
            f"The run {run_id(config)} was begun with schema version {first.schema_version}, this Quarry writes "
            f"{SCHEMA_VERSION}; give this run another `name`."
        )
    if first.model_revision != spec.revision:
        raise DriftError(
            f"The run {run_id(config)} was begun with revision {first.model_revision} of {spec.model}, which is now "
            f"{spec.revision}; give this run another `name`, or restore the weights."
        )


def _new_part(
    config: RunConfig,
    ledger: Ledger,
    existing: Sequence[PlanPart],
    roots: tuple[str, ...],
    on_probe: Progress,
    gone_ok: bool,
) -> PlanFile | None:
    """The plan of the rows that no plan part has, on the local disk; None where there are none.

    The manifest streams by, once: rows that give their length go to be sorted, the others to be probed when all is read and
    found good. In memory are a block of rows and some bytes of each row (`spool`, `drift`), however many there are.
    """
    files = WorkingFiles()
    sorter = PlanSorter(files.new())
    unknown = RowFile(files.new(), MANIFEST_SCHEMA)

    def sort(rows: pa.Table) -> None:
        sorter.add(plan_rows(rows, config.plan, config.decode.max_audio_s))

    rows = read_manifest(config.manifest, config.source)
    for table in _only_new(rows, ledger, existing, config, gone_ok) if existing else rows:
        sort(table.filter(pc.is_valid(table["duration_s"])))
        unknown.add(table.filter(pc.is_null(table["duration_s"])))
    if unknown.rows:

        def open_reader() -> AudioReader:
            return AudioReader(config.decode, config.source, roots)

        for table in probe_blocks(unknown, unknown.rows, open_reader, config.plan.probe_workers, on_probe):
            sort(table)
    if not sorter.rows:
        return None
    first_index = sum(part.totals.shards for part in existing)
    return write_plan_file(plan_blocks(sorter.ordered(), config.plan, first_index), files)


def _only_new(
    rows: Iterable[pa.Table], ledger: Ledger, existing: Sequence[PlanPart], config: RunConfig, gone_ok: bool
) -> Iterator[pa.Table]:
    """The rows that are not planned. Raises DriftError, when all have come by, if planned ones are otherwise or gone."""
    known = PlannedRows(ledger.planned_windows(PLANNED_COLUMNS), sum(part.totals.recordings for part in existing))
    changed: list[str] = []
    for table in rows:
        new, otherwise = known.new(table)
        changed += otherwise.slice(0, _SHOWN - len(changed)).to_pylist()
        yield new
    if changed:
        shown = ", ".join(repr(name) for name in changed)
        raise DriftError(
            f"The manifest {config.manifest} has changed rows that run {run_id(config)} has planned (such as {shown}); "
            "restore them, or give this run another `name`."
        )
    if not gone_ok and known.missing:
        raise DriftError(
            f"The manifest {config.manifest} lacks rows that run {run_id(config)} has planned; "
            "if it is another archive, give this run another `name`, else restore them."
        )
