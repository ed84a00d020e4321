"""Whisper on CTranslate2: the engine that needs no accelerator. `engine` recognises, `weights` finds the model."""

from pipeline.engines.whisper.engine import Whisper, WhisperOptions

__all__ = ["Whisper", "WhisperOptions"]
