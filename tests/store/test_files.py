"""A whole file at an address that a person named."""

from __future__ import annotations

from pathlib import Path

import pytest
from servers import S3Endpoint, connect

from pipeline.config import StoreConfig
from pipeline.errors import StoreError
from pipeline.store.files import put_file


def test_a_local_file_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    for data in (b"first", b"second"):
        put_file(str(target), data, StoreConfig())
        assert target.read_bytes() == data
    put_file(target.as_uri(), b"third", StoreConfig())
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert target.read_bytes() == b"third"
    assert target.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("target", ["{folder}/missing/report.html", "{folder}", "nosuchscheme://x/y"])
def test_what_cannot_be_written_is_one_sentence(tmp_path: Path, target: str) -> None:
    with pytest.raises(StoreError, match=r"^The file .* cannot be written \(.*\); check .*\.$"):
        put_file(target.format(folder=tmp_path), b"x", StoreConfig())
    assert list(tmp_path.iterdir()) == []


def test_an_object_is_put(moto_endpoint: S3Endpoint) -> None:
    config = StoreConfig(storage_options=moto_endpoint.storage_options())
    connect(moto_endpoint).mkdirs("pages", exist_ok=True)
    for data in (b"first", b"second"):
        put_file("s3://pages/here/report.html", data, config)
    assert connect(moto_endpoint).cat_file("pages/here/report.html") == b"second"
