"""Workers that leak: their processes are replaced, which costs no shard, no retry and no suspicion."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from running import fake_settings, quarry, run_folder, table
from test_poison import archive_of

MIB = 2**20


class Watch:
    """Looks at the processes of a pool while a run goes on: how many there were, and what the largest held of its own."""

    def __init__(self, name: str) -> None:
        self._name, self._over = name, threading.Event()
        self.pids: set[int] = set()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.is_set():
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    if self._name in " ".join(process.cmdline()):
                        memory = process.memory_info()
                        self.pids.add(process.pid)
                        self.peak_bytes = max(self.peak_bytes, memory.rss - memory.shared)
            time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("setting", "limit", "replaced"), [("recycle_above_bytes", 512 * MIB, 2), ("recycle_after_shards", 10, 4)]
)
def test_an_engine_that_leaks_stays_within_bounds(tmp_path: Path, setting: str, limit: int, replaced: int) -> None:
    """60 calls that leak 32 MiB each would come to 1.9 GB."""
    manifest = archive_of(tmp_path / "archive", 60, set())
    settings = fake_settings(
        manifest,
        tmp_path / "out",
        **{
            "chunk.vad": "none",
            "plan.shard_s": 1,
            "engine.options": f"{{leak_bytes: {32 * MIB}}}",
            "batch.shards_per_call": 1,
            "runtime.kind": "ray",
            "runtime.engine_cpus": 0.2,
            "runtime.decode_workers": 1,
            f"runtime.{setting}": limit,
        },
    )
    with Watch("EnginePool") as watch:
        done = quarry("run", *settings)
    print(f"{setting}: {len(watch.pids)} engine processes, the largest held {watch.peak_bytes / MIB:.0f} MiB")
    assert done.returncode == 0, done.stderr
    assert len(table(tmp_path / "out")) == 60
    assert len(watch.pids) > replaced
    assert watch.peak_bytes < 1024 * MIB
    assert not (run_folder(tmp_path / "out") / "attempts").exists(), "nobody was suspected"
    assert "ended their workers" not in done.stderr
