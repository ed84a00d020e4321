"""What there is of a partition, asked cheaply: it changes when anything in it does, and not when nothing does."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from flaky_proxy import flaky_proxy
from servers import S3Endpoint, connect

from pipeline.backfill.survey import by_column, survey
from pipeline.config import SourceConfig

CONFIG = SourceConfig()


def state(path: Path, min_age_s: float = 0.0) -> str | None:
    return survey(str(path), CONFIG, min_age_s).digest


def test_a_folder_is_known_by_names_sizes_and_times(tmp_path: Path) -> None:
    assert state(tmp_path) is None
    assert state(tmp_path / "nothing") is None
    (tmp_path / "a.txt").touch()
    assert state(tmp_path) is None, "there is no audio"
    (tmp_path / "a.wav").write_bytes(b"a")
    seen = [state(tmp_path)]
    (tmp_path / "sub").mkdir()
    assert state(tmp_path) == seen[0]
    (tmp_path / "sub" / "b.wav").write_bytes(b"b")
    seen.append(state(tmp_path))
    os.utime(tmp_path / "a.wav", (1, 1))
    seen.append(state(tmp_path))
    (tmp_path / "sub" / "b.wav").unlink()
    seen.append(state(tmp_path))
    assert None not in seen
    assert len(set(seen)) == 4


def test_young_files_of_a_listing_are_left_and_a_folder_with_a_manifest_waits(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"a")
    found = survey(str(tmp_path), CONFIG, 3600)
    assert (found.digest, found.waiting) == (None, 1)
    assert survey(str(tmp_path), CONFIG, 0).listed
    (tmp_path / "metadata.jsonl").write_text("{}")
    assert not survey(str(tmp_path), CONFIG, 0).listed
    assert survey(str(tmp_path), CONFIG, 3600).digest is None


def test_a_manifest_is_known_by_size_and_time(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    assert state(manifest) is None
    manifest.write_text("{}\n")
    first = state(manifest)
    assert first == state(manifest)
    assert state(manifest, 3600) is None, "it may still be written"
    manifest.write_text("{}\n{}\n")
    assert state(manifest) not in (None, first)


def test_other_rows_chosen_of_the_same_manifest_are_another(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text("{}\n")
    found = [survey(str(tmp_path / "m.jsonl"), SourceConfig(only=only), 0) for only in ({}, {"a": "b"}, {"a": "c"})]
    assert len({one.digest for one in found}) == 3
    assert not survey(str(tmp_path / "no.jsonl"), SourceConfig(only={"a": "b"}), 0).is_there


def test_a_manifest_in_several_files(tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / f"m_{number}.jsonl").write_text("{}\n")
    both = state(tmp_path / "m_{0..1}.jsonl")
    (tmp_path / "m_1.jsonl").write_text("{}\n{}\n")
    assert state(tmp_path / "m_{0..1}.jsonl") not in (None, both)


def test_a_column_divides_a_manifest_and_only_what_changed_is_another(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.wav", "day": day} for i, day in enumerate(["2026-11-01", "b", "2026-11-01", None])]

    def held(found: list[dict[str, str | None]]) -> dict[str, str | None]:
        (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))
        return {one.key: found.digest for one, found in by_column(str(tmp_path / "m.jsonl"), CONFIG, "day").items()}

    before = held(rows)
    assert sorted(before) == ["2026-11-01", "_none", "b"]
    grown = held([rows[0], {"path": "new.wav", "day": "b"}, *rows[1:]])
    assert {key for key in before if grown[key] != before[key]} == {"b"}


@pytest.mark.parametrize("name", ["wav.scp", "metadata.csv", "data/train/metadata.jsonl"])
def test_folders_with_a_manifest_inside_are_no_listings(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).touch()
    assert not survey(str(tmp_path), CONFIG, 0).listed


def test_in_a_bucket_it_takes_three_requests_at_most(moto_endpoint: S3Endpoint) -> None:
    filesystem = connect(moto_endpoint)
    filesystem.mkdirs("surveyed", exist_ok=True)
    filesystem.pipe({f"surveyed/day/{number}.wav": b"x" for number in range(30)} | {"surveyed/list.jsonl": b"{}"})
    with flaky_proxy(moto_endpoint.endpoint_url) as proxy:
        options = {**moto_endpoint.storage_options(), "endpoint_url": proxy.url}
        config = SourceConfig(storage_options=options)
        for uri in ("s3://surveyed/day/", "s3://surveyed/list.jsonl"):
            proxy.requests.clear()
            first = survey(uri, config, 0)
            assert first.is_there
            assert sum(proxy.requests.values()) <= 3
            assert survey(uri, config, 0) == first
            assert not proxy.given.keys() & {f"/surveyed/day/{number}.wav" for number in range(30)}
        filesystem.pipe_file("surveyed/list.jsonl", b"{}{}")
        assert survey("s3://surveyed/list.jsonl", config, 0) != first
        assert survey("s3://surveyed/nothing.jsonl", config, 0).digest is None
        assert survey("s3://surveyed/nothing/", config, 0).digest is None
