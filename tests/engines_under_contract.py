"""Every engine with a config that can run here, for the tests of the laws that all engines keep. A new engine adds its line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ctc_checkpoints import write_turboctc
from granite_checkpoints import write_granite

from pipeline.config import EngineConfig
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint

CONFIGS = {
    "ctc": EngineConfig(name="ctc", model="made by the fixture: random weights", threads=1),
    "fake": EngineConfig(name="fake"),
    "granite": EngineConfig(
        name="granite", model="made by the fixture: random weights", threads=1, options={"version": "4.1"}
    ),
    "granite-nar": EngineConfig(name="granite-nar", model="made by the fixture: random weights", threads=1),
    "whisper": EngineConfig(name="whisper", options={"beam_size": 2, "word_times": True}),
}
# Engines whose weights are made on the spot: they hear words in anything.
RANDOM_MODELS: dict[str, Callable[[Path], None]] = {
    "ctc": write_turboctc,
    "granite": write_granite,
    "granite-nar": partial(write_checkpoint, config=TINY, layout="B", seed=0),
}
