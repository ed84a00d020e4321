"""The short form of `make chaos`: one process, a driver that is killed, a store with faults; and a judge that does find fault."""

from __future__ import annotations

from pathlib import Path

import pytest
from flaky_proxy import FlakyProxy
from servers import S3Endpoint, connect
from storm import CLIPS_PER_SHARD, Storm, judge, put_archive, run_seed

SHARDS = 20


@pytest.fixture(scope="module")
def texts(s3_endpoint: S3Endpoint) -> dict[str, str]:
    return put_archive(connect(s3_endpoint), "chaos", SHARDS * CLIPS_PER_SHARD)


def test_nothing_is_lost_doubled_or_unreadable(s3_endpoint: S3Endpoint, texts: dict[str, str], tmp_path: Path) -> None:
    storm = run_seed(Storm(seed=1, shards=SHARDS, kills=2), s3_endpoint, texts, tmp_path, on_ray=False)
    assert storm.clean, storm
    assert storm.drivers >= 1, "too few kills to prove anything"
    assert 0 <= storm.heard_again < 1, "every clip went into an engine, and few of them twice"
    assert sum(storm.faults.values()) > 8, "a store that behaves proves nothing"
    losses_by_a_judge_who_looks(storm, s3_endpoint, texts)


def losses_by_a_judge_who_looks(storm: Storm, endpoint: S3Endpoint, texts: dict[str, str]) -> None:
    """The same run, judged against an archive with one recording more and another text, and with a part that is damaged."""
    filesystem = connect(endpoint)
    output = f"chaos/out-{storm.seed}"
    part = next(path for path in filesystem.find(output) if "/parts/" in path)
    filesystem.pipe_file(part, filesystem.cat_file(part)[:-9])
    other = {**texts, "more": "a text", next(iter(texts)): "another text"}
    judge(storm, filesystem, output, other, FlakyProxy(endpoint.endpoint_url))
    assert (storm.lost, storm.wrong, storm.unreadable) == (1, 1, 1)
