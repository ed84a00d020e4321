"""What the end-to-end tests have to run the command with serves here as well."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[1] / "end_to_end"))


@pytest.fixture(autouse=True)
def _own_temporary_folder(own_temporary_folder: None) -> None:
    """These tests kill drivers."""
