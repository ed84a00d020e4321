"""Memory that really runs out: the runner halves batches, nothing is lost, and the text stays the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ctc_checkpoints import write_turboctc

OUT_OF_MEMORY = """
import resource, sys
import numpy as np, psutil
from pipeline.config import BatchConfig, EngineConfig
from pipeline.engines.ctc.engine import Ctc
from pipeline.engines.runner import MemoryBudget, run_batches
from pipeline.errors import EngineOutOfMemory
from pipeline.records import ChunkAudio

class Counting(Ctc):
    errors = []

    def transcribe(self, chunks):
        try:
            return super().transcribe(chunks)
        except EngineOutOfMemory as error:
            self.errors.append(str(error))
            raise

def described(found):
    return [(one.text, one.n_tokens, [(word.word, word.start_s, word.end_s) for word in one.words]) for one in found]

noise = np.random.default_rng(0)
chunks = [ChunkAudio(noise.integers(-9999, 9999, n, np.int16)) for n in noise.integers(160_000, 320_000, 12)]
engine = Counting(EngineConfig(name="ctc", model=sys.argv[1], device="cpu", threads=1))
engine.load()
small, _ = run_batches(engine, chunks, BatchConfig(max_audio_s=30), MemoryBudget())
assert not engine.errors
limit = psutil.Process().memory_info().vms + 40 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
memory = MemoryBudget()
found, stats = run_batches(engine, chunks, BatchConfig(max_audio_s=1000), memory)
assert engine.errors, "it all fitted"
assert described(found) == described(small)
assert memory.limit_s <= stats.padded_s / 2
engine.close()
print("one hypothesis each:", len(found))
"""


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(tmp_path: Path) -> None:
    """The process may take 40 MB more, and a batch of all chunks wants several times as much."""
    write_turboctc(tmp_path)
    few_arenas = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    repository = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | few_arenas | {"PYTHONPATH": repository},
    )
    assert (done.returncode, done.stdout.strip()) == (0, "one hypothesis each: 12"), done.stderr
