"""Decoding stays a little ahead of the engines, and the engines never wait for it, on a real Ray."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from pipeline.config.file import load_config
from pipeline.prepare import prepare
from pipeline.run import execute
from pipeline.store.parts import stats_of

SHARDS, DEVICE_S = 40, 0.1
IN_HAND, DECODING = 4, 2  # one engine: two calls at once, two on their way; one decoder: two calls


@pytest.mark.usefixtures("ray_cluster")
def test_decoding_waits_for_engines_and_engines_for_nothing(tmp_path: Path) -> None:
    """By bytes, Ray let all be decoded at once, and held engines back until they were, whose receipts weighed too much."""
    soundfile.write(tmp_path / "second.flac", np.zeros(16_000, np.int16), 16_000)
    row = {"uri": str(tmp_path / "second.flac"), "duration": 1.0}
    rows = (json.dumps({"id": f"{number:02d}", **row}) + "\n" for number in range(SHARDS))
    (tmp_path / "manifest.jsonl").write_text("".join(rows))
    settings = [
        f"manifest={tmp_path / 'manifest.jsonl'}",
        f"output={tmp_path / 'out'}",
        "engine={name: fake, model: fake, language: en}",
        f"engine.options={{seconds_per_audio_s: {DEVICE_S}}}",
        "chunk.vad=none",
        "plan.shard_s=1",
        "runtime.engine_cpus=0.2",
        "runtime.decode_workers=1",
    ]
    assert execute(prepare(load_config(None, settings))).exit_code == 0
    shards = [stats_of(pq.read_table(path)) for path in (tmp_path / "out").rglob("parts/*/*.parquet")]
    assert len(shards) == SHARDS
    begun = [one.done_at_s - one.call_s for one in shards]
    decoded = [at_s - one.queued_s for at_s, one in zip(begun, shards, strict=True)]
    # While the engine loads, nothing else goes on, and Ray decodes whatever a policy says: that is found waiting.
    found = sum(at_s <= min(begun) for at_s in decoded)
    for moment in (at_s for at_s in decoded if at_s > min(begun)):
        unpublished = sum(at_s <= moment for at_s in decoded) - sum(one.done_at_s <= moment for one in shards)
        assert unpublished <= max(2 * IN_HAND, found) + DECODING
    assert sum(sorted(one.wait_s for one in shards)[:-1]) < 0.2 * SHARDS * DEVICE_S  # the longest: for the first shard
