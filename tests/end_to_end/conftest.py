"""An archive to run, and one Ray to run it on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from running import REPO


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo archive: 14 files in many formats, one of eleven minutes, one broken, one silent."""
    folder = tmp_path_factory.mktemp("demo") / "archive"
    subprocess.run([sys.executable, REPO / "demos" / "make_archive.py", folder], check=True, capture_output=True)
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
def ray_cluster() -> Iterator[None]:
    """One small Ray for all tests that need one; `ray_session` finds it running and leaves it so."""
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=300 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()
