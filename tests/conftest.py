"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from servers import S3Endpoint, start_moto, start_seaweed

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

# Machines are shared and pause; a property either holds or not. Derandomised: a red run can be repeated.
settings.register_profile("quarry", deadline=None, derandomize=True)
settings.load_profile("quarry")

REPO = Path(__file__).resolve().parent.parent


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
