"""What a backfill remembers, in the store: of each partition the state that it was last worked on in, and what each night did.

<output>/backfill/<name>-<fingerprint>/
  partitions/<key>/000003-<digest>-<exit code>-<tries>.json   the latest number counts; its name says all that a night needs
  log/000012.json                                             one per invocation, by the number of its lease
  lease/                                                      the run lock (pipeline.store.lease)

All of it can be lost: the runs themselves know what is done, and a backfill without memory asks each of them once.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.backfill.partitions import WHOLE, archive_name
from pipeline.config import RunConfig
from pipeline.store.objects import ObjectStore

_RECORD = re.compile(r"partitions/([^/]+)/(\d{6,})-([0-9a-f]+)-(\d)-(\d+)\.json")
MANIFEST = "_manifest"  # the record of one manifest that `backfill.column` divides


@dataclass(frozen=True, slots=True)
class Record:
    """How a partition was left: what it held, with which exit code, and how often its failures were tried again."""

    number: int
    digest: str
    exit_code: int
    tries: int

    def is_done(self, digest: str, retry_failed: int) -> bool:
        """Whether there is nothing to do for a partition that holds `digest` now."""
        return self.digest == digest and (self.exit_code == 0 or (self.exit_code == 1 and self.tries >= retry_failed))


NEW = Record(0, "", 3, 0)


def latest_records(keys: Iterable[str]) -> dict[str, Record]:
    """The latest record of every partition, by its label, from the keys of a backfill's folder."""
    found: dict[str, Record] = {}
    for key in keys:
        if match := _RECORD.fullmatch(key):
            record = Record(int(match[2]), match[3], int(match[4]), int(match[5]))
            if record.number > found.get(match[1], NEW).number:
                found[match[1]] = record
    return found


class Book:
    """The memory of one backfill. `store` is rooted at its folder."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    def records(self) -> dict[str, Record]:
        """The latest record of every partition, by its label: one listing, nothing is opened."""
        return latest_records(info.key for info in self.store.list("partitions"))

    def note(self, label: str, record: Record, details: Mapping[str, Any]) -> None:
        """Remember how a partition was left. Raises StoreError."""
        key = f"partitions/{label}/{record.number:06d}-{record.digest}-{record.exit_code}-{record.tries}.json"
        self.store.put_if_absent(key, json.dumps(details, indent=1).encode())

    def log(self, number: int, summary: Mapping[str, Any]) -> str:
        """Write what an invocation did, under its number or the next that is free; the key. Raises StoreError."""
        data = json.dumps(summary, indent=1).encode()
        while not self.store.put_if_absent(f"log/{number:06d}.json", data):
            number += 1
        return f"log/{number:06d}.json"


def open_book(config: RunConfig) -> Book:
    """The memory of the backfill with these settings. Raises StoreError."""
    output = config.output if "://" in config.output else os.path.abspath(config.output)
    folder = f"{output.rstrip('/')}/backfill/{archive_name(config)}-{config.fingerprint()}"
    return Book(ObjectStore.open(folder, config.store))


def run_id_of(backfill_id: str, label: str) -> str:
    """The run of a partition, from the names of the backfill's folder and of the partition's."""
    name, _, fingerprint = backfill_id.rpartition("-")
    key = "" if label == WHOLE else label
    return "-".join(filter(None, (name, key, fingerprint)))
