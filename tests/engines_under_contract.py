"""Every engine with a config that can run here, for the tests of the laws that all engines keep. A new engine adds its line."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ctc_checkpoints import write_turboctc
from granite_checkpoints import write_granite
from granite_plus_checkpoints import write_granite_plus
from whisper_checkpoints import write_whisper

from pipeline.config import EngineConfig
from pipeline.engines.granite_nar.random_checkpoint import TINY, write_checkpoint

CONFIGS = {
    "ctc": EngineConfig(name="ctc", model="made by the fixture: random weights", threads=1),
    "fake": EngineConfig(name="fake", options={"translates_into": ["en", "fr"]}),
    "granite": EngineConfig(
        name="granite", model="made by the fixture: random weights", threads=1, options={"version": "4.1"}
    ),
    "granite-nar": EngineConfig(name="granite-nar", model="made by the fixture: random weights", threads=1),
    "granite-plus": EngineConfig(  # chunks of several calls and two windows
        name="granite-plus",
        model="made by the fixture: random weights",
        threads=1,
        options={"mode": "speakers", "step_s": 5, "overlap_s": 5, "window_s": 20, "max_chunk_s": 30},
    ),
    "vllm": EngineConfig(name="vllm", model="made by the fixture: random weights", options={"version": "4.1"}),
    "whisper": EngineConfig(name="whisper", options={"beam_size": 2, "word_times": True}),
    "whisper-transformers": EngineConfig(
        name="whisper-transformers",
        model="made by the fixture: random weights",
        threads=1,
        options={"max_new_tokens": 12, "word_times": True},
    ),
}
# Engines whose weights are made on the spot: they hear words in anything.
RANDOM_MODELS: dict[str, Callable[[Path], None]] = {
    "ctc": write_turboctc,
    "granite": write_granite,
    "granite-plus": write_granite_plus,
    "granite-nar": partial(write_checkpoint, config=TINY, layout="B", seed=0),
    "vllm": write_granite,
    "whisper-transformers": write_whisper,
}
# Engines whose library no extra of `dev` brings.
NEEDS = {"vllm": "vllm"}
