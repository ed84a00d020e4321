"""`source.only`: some rows of a manifest, by the values of columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config import SourceConfig
from pipeline.errors import ManifestError
from pipeline.source.checking import check_manifest
from pipeline.source.manifest import manifest_digest, read_manifest

ROWS = [
    {"id": "a", "path": "a.wav", "day": "2026-11-01", "lang": "en"},
    {"id": "b", "path": "b.wav", "day": "2026-11-02", "lang": "en"},
    {"id": "c", "path": "c.wav", "lang": "de"},
    {"id": "d", "path": "d.wav", "day": "2026-11-02", "lang": "de"},
]


@pytest.fixture
def manifest(tmp_path: Path) -> str:
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return str(tmp_path / "m.jsonl")


@pytest.mark.parametrize(
    ("only", "ids"),
    [
        ({}, "abcd"),
        ({"day": "2026-11-02"}, "bd"),
        ({"day": "2026-11-02", "language": "de"}, "d"),
        ({"day": ""}, "c"),
        ({"id": "a"}, "a"),
    ],
)
def test_only_these_rows(manifest: str, only: dict[str, str], ids: str) -> None:
    config = SourceConfig(only=only)
    assert [id_ for table in read_manifest(manifest, config) for id_ in table["id"].to_pylist()] == list(ids)
    assert check_manifest(manifest, config).rows == len(ids)
    assert (manifest_digest(manifest, config) == manifest_digest(manifest, SourceConfig())) == (not only)


def test_choosing_nothing_is_said(manifest: str) -> None:
    with pytest.raises(ManifestError, match=r"No row of the manifest .* source\.only"):
        list(read_manifest(manifest, SourceConfig(only={"day": "never"})))


def test_an_id_may_come_again_where_it_is_not_chosen(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "id": "a"}, {**ROWS[2], "id": "a"}]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    manifest = str(tmp_path / "m.jsonl")
    assert check_manifest(manifest, SourceConfig(only={"day": "2026-11-02"})).problem_count == 0
    assert check_manifest(manifest, SourceConfig(only={"lang": "", "language": "en"})).problem_count == 1
