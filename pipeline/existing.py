"""Find a run that exists: by the settings that made it, or by its own folder, which needs no settings at all."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass

from pipeline.config import RunConfig, StoreConfig
from pipeline.errors import RunError
from pipeline.prepare import open_ledger, run_id, run_uri
from pipeline.store.ledger import Ledger
from pipeline.store.objects import ObjectStore


@dataclass(frozen=True, slots=True)
class ExistingRun:
    """A run that has a plan. `named` is how it was named, to be put behind `quarry verify` and the like."""

    id: str
    ledger: Ledger
    named: str
    config: RunConfig | None  # None: it was found by its folder
    note: str = ""  # what a person should know about how it was found


def find_by_settings(config: RunConfig, settings: str) -> ExistingRun:
    """The run that these settings make. Raises RunError when there is none yet, StoreError."""
    ledger = open_ledger(config)
    parts = ledger.plan_parts()
    if not parts:
        raise RunError(f"There is no run at {run_uri(config)}; `quarry run` with the same settings begins it.")
    was_other = config.public()["manifest"] not in {part.manifest for part in parts}
    note = f"note: this run was planned from {parts[0].manifest}." if was_other else ""
    return ExistingRun(run_id(config), ledger, settings, config, note)


def find_by_folder(folder: str, config: StoreConfig) -> ExistingRun:
    """The run in a folder or at a uri, `OUTPUT/NAME-FINGERPRINT`. Raises RunError when there is none, StoreError."""
    uri = folder.rstrip("/") if "://" in folder else os.path.abspath(folder)
    store = ObjectStore.open(uri, config)
    ledger = Ledger(store)
    if not ledger.plan_parts():
        raise RunError(f"There is no run at {store}; name the run's own folder, such as OUTPUT/NAME-0123456789ab.")
    return ExistingRun(str(store).rpartition("/")[2], ledger, shlex.quote(str(store)), None)
