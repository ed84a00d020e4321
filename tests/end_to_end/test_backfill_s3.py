"""A backfill from and to a real S3 server: what a quiet night costs, counted in requests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from flaky_proxy import FlakyProxy, flaky_proxy
from running import fake_settings, quarry
from servers import S3Endpoint, connect
from test_backfill import speech

from pipeline import read_runs


def requests_of(proxy: FlakyProxy, *command: str) -> tuple[int, str]:
    """Requests of one night, and what it printed."""
    proxy.requests.clear()
    proxy.given.clear()
    done = quarry("backfill", *command)
    assert done.returncode == 0, done.stderr
    return sum(proxy.requests.values()), done.stdout


@pytest.fixture
def proxy(moto_endpoint: S3Endpoint) -> Iterator[FlakyProxy]:
    with flaky_proxy(moto_endpoint.endpoint_url) as running:
        yield running


@pytest.mark.slow  # its short form: tests/backfill/test_survey.py
def test_a_partition_that_is_as_it_was_costs_three_requests_at_most(
    proxy: FlakyProxy, moto_endpoint: S3Endpoint, tmp_path: Path
) -> None:
    filesystem = connect(moto_endpoint)
    filesystem.mkdirs("nightly", exist_ok=True)

    def upload(day: str, numbers: range) -> None:
        for number in numbers:
            filesystem.put_file(str(speech(tmp_path / "x.wav", number)), f"nightly/audio/2026/11/{day}/{number}.wav")

    options = json.dumps({**moto_endpoint.storage_options(), "endpoint_url": proxy.url})
    stores = {"source.storage_options": options, "store.storage_options": options}
    more = {"chunk.vad": "none", "backfill.min_age_s": 0, "plan.shard_s": 2, "backfill.last_days": 1}
    command = fake_settings("s3://nightly/audio/{date:%Y/%m/%d}/", "s3://nightly/out", **stores, **more)
    upload("01", range(1))
    requests_of(proxy, *command, "--until", "2026-11-01")
    quiet, said = requests_of(proxy, *command, "--until", "2026-11-01")
    assert "1 unchanged" in said
    upload("02", range(1, 5))
    _, said = requests_of(proxy, *command, "--until", "2026-11-02", "--last-days", "2")
    assert "1 partition worked on" in said
    fetched = sorted(path for path in proxy.given if path.endswith(".wav"))
    assert fetched == [f"/nightly/audio/2026/11/02/{number}.wav" for number in range(1, 5)], "old audio was fetched"
    quiet_two, said = requests_of(proxy, *command, "--until", "2026-11-02", "--last-days", "2")
    assert "2 unchanged" in said
    assert not [path for path in proxy.given if path.endswith((".wav", ".parquet"))]
    assert quiet_two - quiet <= 3, "an unchanged partition costs at most three requests, however many parts it has"
    plain = moto_endpoint.storage_options()
    assert read_runs("s3://nightly/out", storage_options=plain).arrow(["partition"]).num_rows == 5
