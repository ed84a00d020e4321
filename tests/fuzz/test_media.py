"""The short form of `make fuzz`: a row with a code for every hostile file, and no decoder that dies or hangs (F7, F8, F9)."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from media import LENGTH_S, SEEDS, Outcome, fuzz, made

from pipeline.errors import AudioCode


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return fuzz(tmp_path_factory.mktemp("fuzz"), mutants=10 * len(SEEDS), first_seed=7)


@pytest.fixture(scope="module")
def rows(outcome: Outcome) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in outcome.rows}


def test_every_file_has_its_row(outcome: Outcome, rows: dict[str, dict[str, Any]]) -> None:
    assert outcome.returncode == 1, outcome.stderr
    assert len(rows) == len(outcome.rows) == outcome.files


def test_a_failure_has_a_code_and_one_sentence(rows: dict[str, dict[str, Any]]) -> None:
    for row in rows.values():
        assert row["status"] in ("ok", "partial", "failed")
        if row["status"] == "failed":
            assert row["failure"]["code"] in get_args(AudioCode), row
            assert row["failure"]["code"] not in ("decoder_crashed", "decode_timeout", "internal_error"), row
            assert row["failure"]["message"].endswith(".")


def test_no_file_gives_more_audio_than_it_can_hold(rows: dict[str, dict[str, Any]]) -> None:
    assert rows["bomb-flac"]["failure"]["code"] == "audio_too_long"
    for name, row in rows.items():
        if "-mutant-" in name:
            assert row["duration_s"] <= 100 * LENGTH_S, row


def test_what_is_no_audio_is_never_opened_as_audio(rows: dict[str, dict[str, Any]]) -> None:
    for name, _ in made():
        if name.startswith(("playlist", "text", "html", "svg", "zip", "executable", "zeros", "empty")):
            assert rows[name]["status"] == "failed", rows[name]
