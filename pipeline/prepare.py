"""From a config to a run that can start: everything is checked before anything is written.

Order: config → engine → manifest → store → plan. A run that exists is resumed; a manifest that has grown adds a plan part;
one that has changed is refused.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import PurePosixPath

import pyarrow as pa

from pipeline.audio.reader import AudioReader
from pipeline.config import RunConfig
from pipeline.engines.base import EngineSpec, describe_engine
from pipeline.errors import DriftError
from pipeline.metrics.cost import Expense, Terms, expected
from pipeline.plan import PlanTotals, add_totals, changed_rows, plan_table, split_new, totals
from pipeline.prices import terms_of
from pipeline.records import RunIdentity
from pipeline.schema import SCHEMA_VERSION
from pipeline.source.manifest import manifest_digest, manifest_roots, read_manifest
from pipeline.source.probing import probe_missing
from pipeline.store.ledger import Ledger, PlanPart
from pipeline.store.objects import ObjectStore

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Run:
    """A run with its plan. `new_windows` is the plan part that this call would add; empty when nothing is new."""

    config: RunConfig
    spec: EngineSpec
    identity: RunIdentity
    roots: tuple[str, ...]
    ledger: Ledger
    existing: tuple[PlanPart, ...]
    new_windows: pa.Table | None
    digest: str
    terms: Terms

    @property
    def expected(self) -> Expense:
        """What the plan should take and cost, all of it, on the terms of this call."""
        return expected(self.totals.audio_s, self.terms, self.config.runtime.engine_workers)

    @property
    def uri(self) -> str:
        """The run's folder."""
        return self.ledger.store.uri

    @property
    def totals(self) -> PlanTotals:
        """What the plan holds, the new part included."""
        planned = [part.totals for part in self.existing]
        if self.new_windows is not None:
            planned.append(totals(self.new_windows))
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
    """Check everything and work out what the plan lacks. Writes nothing. Raises RunError."""
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
    rows = pa.concat_tables(read_manifest(config.manifest, config.source))
    if existing:
        rows = _only_new(rows, ledger, config, gone_ok)
    first_index = sum(part.totals.shards for part in existing)
    windows = None
    if rows.num_rows:
        probed = _probe(rows, config, roots, on_probe)
        windows = plan_table(probed, config.plan, first_index, config.decode.max_audio_s)
    return Run(config, spec, identity, roots, ledger, existing, windows, digest, terms)


def write_plan(run: Run) -> Run:
    """Write the plan part that is new, if one is; the run with it among the existing ones. Raises DriftError, StoreError."""
    if run.new_windows is None:
        return run
    run.ledger.store.check_writable()
    sums = totals(run.new_windows)
    part = run.ledger.add_plan_part(
        len(run.existing),
        run.new_windows,
        {
            "manifest": run.config.public()["manifest"],
            "manifest_digest": run.digest,
            "fingerprint": run.config.fingerprint(),
            "schema_version": SCHEMA_VERSION,
            "model_revision": run.spec.revision,
            "totals": sums,
            "expected": asdict(expected(sums.audio_s, run.terms, run.config.runtime.engine_workers)),
            "config": run.config.text_settings(),
        },
    )
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


def _only_new(rows: pa.Table, ledger: Ledger, config: RunConfig, gone_ok: bool) -> pa.Table:
    planned = ledger.planned_windows()
    changed = changed_rows(rows, planned)
    if changed:
        shown = ", ".join(repr(name) for name in changed[:3])
        raise DriftError(
            f"The manifest {config.manifest} has changed rows that run {run_id(config)} has planned (such as {shown}); "
            "restore them, or give this run another `name`."
        )
    if not gone_ok and split_new(planned, rows["id"]).num_rows:
        raise DriftError(
            f"The manifest {config.manifest} lacks rows that run {run_id(config)} has planned; "
            "if it is another archive, give this run another `name`, else restore them."
        )
    return split_new(rows, planned["id"])


def _probe(rows: pa.Table, config: RunConfig, roots: tuple[str, ...], on_probe: Progress) -> pa.Table:
    def open_reader() -> AudioReader:
        return AudioReader(config.decode, config.source, roots)

    return probe_missing(rows, open_reader, config.plan.probe_workers, on_probe)
