"""An archive to run, and one Ray to run it on."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import REPO


@pytest.fixture(autouse=True)
def _own_temporary_folder(own_temporary_folder: None) -> None:
    """Some of these tests kill drivers."""


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo archive: 14 files in many formats, one of eleven minutes, one broken, one silent."""
    made = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        made = made.parent  # made by the worker that comes first, and found by the others
    command = [sys.executable, REPO / "demos" / "make_archive.py", made / "demo-archive"]
    with (made / "demo-archive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(command, check=True, capture_output=True)
    folder = tmp_path_factory.mktemp("demo") / "archive"
    shutil.copytree(made / "demo-archive", folder)
    return folder


@pytest.fixture(scope="session")
def short_manifest(archive: Path) -> Path:
    """The manifest without its longest recordings: what a real engine transcribes in seconds."""
    rows = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    keep = ("austen", "upload", "silence", "monkeys", "agent")
    manifest = archive / "short.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"].startswith(keep)))
    return manifest


@pytest.fixture(scope="session")
def few_manifest(archive: Path) -> Path:
    """One recording in two windows, one broken, one silent, and three more: six shards of half a minute."""
    rows = [json.loads(line) for line in (archive / "manifest.jsonl").read_text().splitlines()]
    keep = ("agent", "austen-0870", "instructions", "monkeys", "silence", "upload-cut-off")
    manifest = archive / "few.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows if row["id"] in keep))
    return manifest


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One small Ray for all tests that need one; `ray_session` finds it running and leaves it so. Its address, for processes."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
