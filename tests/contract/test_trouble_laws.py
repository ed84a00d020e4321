"""Two laws of `pipeline.engines.base` on bad days: memory that runs out, and a device that is gone. For every engine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engines_under_contract import CONFIGS, RANDOM_MODELS

from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.base import create_engine
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import ConfigError, EngineDead
from pipeline.records import ChunkAudio

# Most that a process may take beside what the loaded engine has: little beside what all chunks at once want.
HEADROOM_BYTES = {
    "ctc": 40 * 2**20,
    "fake": 2**20,
    "granite": 60 * 2**20,
    "granite-nar": 80 * 2**20,
    "granite-plus": 40 * 2**20,
    "whisper-transformers": 60 * 2**20,
}
# On PyTorch it is one function that tells a lack of memory from other trouble (granite_nar/device.py), whoever asks it:
# for these it is shown only where there is time. In short: granite-nar's own case here, and what an allocator says in
# tests/engines/granite_nar/test_device_errors.py and tests/engines/ctc/test_ctc_engine.py.
AT_LENGTH = {"ctc", "granite", "granite-plus", "whisper-transformers"}
MEMORY_RUNS_OUT = """
import resource, sys
import numpy as np, psutil
from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.base import create_engine
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import EngineOutOfMemory
from pipeline.records import ChunkAudio, Failure

config, headroom_bytes = EngineConfig.model_validate_json(sys.argv[1]), int(sys.argv[2])
noise = np.random.default_rng(0)
chunks = [ChunkAudio(noise.integers(-9999, 9999, n, np.int16)) for n in noise.integers(160_000, 480_000, 20)]
engine = create_engine(config)
engine.load()

def told(found):
    return [one if isinstance(one, Failure) else (one.text, one.n_tokens, one.stop_reason) for one in found]

small, _ = run_batches(engine, chunks, BatchConfig(max_audio_s=30), MemoryBudget())
assert not any(isinstance(one, Failure) for one in small), small
limit = psutil.Process().memory_info().vms + headroom_bytes
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
memory = MemoryBudget()
found, stats = run_batches(engine, chunks, BatchConfig(max_audio_s=1000), memory)
assert memory.limit_s < stats.audio_s, "it all fitted"
assert told(found) == told(small), [pair for pair in zip(told(found), told(small)) if pair[0] != pair[1]]
again, _ = run_batches(engine, chunks, BatchConfig(max_audio_s=1000), memory)
assert told(again) == told(small)
left = limit - psutil.Process().memory_info().vms
assert left > headroom_bytes / 2, f"of the memory of failed batches {left} bytes came back"
engine.close()
print("one hypothesis each:", len(found))
"""

# On a CPU whisper takes a chunk at a time: its batches are as large as one chunk.
NOT_EVEN_ONE_FITS = """
import resource, sys
import numpy as np, psutil
from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.base import create_engine
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.records import ChunkAudio, Failure

chunks = [ChunkAudio(np.random.default_rng(seed).integers(-9999, 9999, 80_000, np.int16)) for seed in (0, 1)]
engine = create_engine(EngineConfig.model_validate_json(sys.argv[1]))
engine.load()
before, _ = run_batches(engine, chunks, BatchConfig(), MemoryBudget())
assert not any(isinstance(one, Failure) for one in before), before
limit = psutil.Process().memory_info().vms + 2**22
resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
without, _ = run_batches(engine, chunks, BatchConfig(), MemoryBudget())
assert [one.code for one in without] == ["engine_oom"] * 2, without
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after, _ = run_batches(engine, chunks, BatchConfig(), MemoryBudget())
assert after == before
engine.close()
print("one hypothesis each:", len(after))
"""
# Else the C library keeps what is freed, in pieces too small for the next batch.
GIVES_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
FEW_THREADS = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def config(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> EngineConfig:
    found = CONFIGS[request.param].model_copy(update={"device": "cpu", "threads": 1})
    try:
        if found.name in RANDOM_MODELS:
            folder = tmp_path_factory.mktemp(found.name)
            RANDOM_MODELS[found.name](folder)
            found = found.model_copy(update={"model": str(folder)})
        create_engine(found)
    except ConfigError as error:
        pytest.skip(str(error))
    return found


@pytest.mark.parametrize(
    "config",
    [pytest.param(name, marks=[pytest.mark.slow] if name in AT_LENGTH else []) for name in sorted(CONFIGS)],
    indirect=True,
)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(config: EngineConfig) -> None:
    """For real: the process may take some more memory, and a batch of all chunks wants several times as much."""
    if config.name == "whisper":
        assert said(NOT_EVEN_ONE_FITS, config.model_dump_json()) == "one hypothesis each: 2"
        return
    if config.name == "fake":
        config = config.model_copy(update={"options": {"oom_above_s": 100.0}})
    headroom_bytes = str(HEADROOM_BYTES[config.name])
    assert said(MEMORY_RUNS_OUT, config.model_dump_json(), headroom_bytes) == "one hypothesis each: 20"


def said(program: str, *arguments: str) -> str:
    """What a program prints, in a process of its own that gives memory back."""
    environment = os.environ | FEW_THREADS | GIVES_BACK | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_device_that_is_gone_ends_the_engine(config: EngineConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine here can lose its device: the words with which CUDA says so come out of the innermost call instead."""
    if config.name == "fake":
        config = config.model_copy(update={"options": {"die_on_call": 1}})
    engine = create_engine(config)
    engine.load()

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    if config.name == "whisper":
        monkeypatch.setattr(type(engine), "_generate", fail)
    elif config.name != "fake":
        import torch.nn.functional

        monkeypatch.setattr(torch.nn.functional, "linear", fail)
    noise = np.random.default_rng(0).integers(-9999, 9999, 16_000, np.int16)
    with pytest.raises(EngineDead):
        run_batches(engine, [ChunkAudio(noise)], BatchConfig(), MemoryBudget())
    engine.close()
