"""What can be said of a Granite Speech Plus checkpoint from its file names and its config.json. Imports no heavy library."""

from __future__ import annotations

from pipeline.engines.granite.checkpoint import Checkpoint, Family, read_checkpoint
from pipeline.engines.model_files import ModelFiles

# Its published weights have the adapter merged in, whatever the config says; an adapter of its own would be a file.
PLUS = Family(
    engine="granite-plus",
    model_type="granite_speech_plus",
    take="take the folder of ibm-granite/granite-speech-4.1-2b-plus as it is published",
    says_adapter=False,
)


def read_plus_checkpoint(files: ModelFiles) -> Checkpoint:
    """Raises ConfigError: files are missing, or the model is of another type."""
    return read_checkpoint(files, PLUS)
