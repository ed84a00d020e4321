"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from servers import S3Endpoint, start_moto, start_seaweed

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
# Two workers share the cores with the programs they start: threads that wait must not spin (before torch is loaded).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("KMP_BLOCKTIME", "0")

# Machines are shared and pause; a property either holds or not. Derandomised: a red run can be repeated.
settings.register_profile("quarry", deadline=None, derandomize=True)
settings.load_profile("quarry")

REPO = Path(__file__).resolve().parent.parent

# Files whose default tests need a running Ray: they go to one worker, for a Ray takes ten seconds to start.
ON_RAY = ("test_trouble", "test_granite_nar_runs", "test_same_everywhere", "test_poison", "test_backpressure")
# Groups that take longest, longest first: what starts last decides when two workers are done.
LONGEST = (
    "ray",
    "test_bad_weather",
    "test_storm",
    "test_trouble_laws",
    "test_crash_points",
    "test_whisper",
    "test_shared_archives",
    "test_retry",
    "test_second_pass",
    "test_fetch",
    "test_backfill",
    "test_plus_engine",
)


def group_of(path: str) -> str:
    """What goes to one worker: a file, so that it makes its fixtures once, or all files on Ray."""
    stem = Path(path).stem
    return "ray" if stem in ON_RAY else stem


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the groups that take longest, and keep the list of the files on Ray true."""
    for item in items:
        on_ray = "ray_cluster" in getattr(item, "fixturenames", ()) and not item.get_closest_marker("slow")
        if on_ray and item.path.stem not in ON_RAY:
            raise pytest.UsageError(f"{item.nodeid} needs a Ray: add its file to ON_RAY in tests/conftest.py")
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(group_of(item.path.name), len(order)))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadgroup` gives a worker a whole group; xdist's own loses the groups since pytest 9.2 (pytest-xdist#1386)."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByGroup(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0])

    return ByGroup(config, log)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material beside the checkout, or a skip."""
    folder = Path(os.environ.get("QUARRY_SHARED", REPO.parent / "shared"))
    if not folder.is_dir():
        pytest.skip("no shared material beside the checkout (set QUARRY_SHARED)")
    return folder


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    """Recorded speech with references (shared/data), or a skip."""
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip("no recorded speech in the shared material")
    return folder


@pytest.fixture
def own_temporary_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers that are killed leave what they had spooled among the test's files, not in the system's folder."""
    here = tempfile.gettempdir()  # this process has it from now on, as before
    monkeypatch.setenv("RAY_TMPDIR", os.environ.get("RAY_TMPDIR", here))  # a short path: Ray keeps sockets in it
    monkeypatch.setenv("TMPDIR", str(tmp_path_factory.mktemp("tmp")))


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A real S3 server (SeaweedFS) for the session: (endpoint_url, key, secret)."""
    with start_seaweed(tmp_path_factory.mktemp("seaweed")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[S3Endpoint]:
    """An S3 server in a thread (moto): quicker to start, in memory."""
    with start_moto() as endpoint:
        yield endpoint
