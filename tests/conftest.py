"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_AUTH_MODE", "disabled")

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
