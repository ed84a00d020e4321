"""How long Ray waits for a shard, and what is said when it waits no longer."""

from __future__ import annotations

import pytest
from ray.data.exceptions import ExecutionTimeoutError

from pipeline.config import RunConfig
from pipeline.config.file import load_config
from pipeline.errors import RunBrokenOffError
from pipeline.runtime.ray_flow import patience_s
from pipeline.runtime.ray_session import ray_errors


def config(*settings: str) -> RunConfig:
    return load_config(None, ["manifest=m", "output=o", *settings])


def test_a_shard_may_take_as_long_as_the_watchdog_lets_its_engine() -> None:
    """A speech model of 2B on a CPU is slower than speech: with less patience no shard of it would ever be done."""
    assert patience_s(config()) >= 5 * config().plan.shard_s
    assert patience_s(config("plan.shard_s=7200")) == 600 + 10 * 7200
    assert patience_s(config("batch.shards_per_call=4")) == 600 + 10 * 4 * 1800
    assert patience_s(config("batch.timeout_s=5", "batch.timeout_per_audio_s=0")) == 1800


def test_a_run_that_ray_gives_up_ends_with_a_sentence() -> None:
    with pytest.raises(RunBrokenOffError, match="the same command resumes"), ray_errors():
        raise ExecutionTimeoutError("Dataset execution made no progress for at least 1800s of scheduling time")
