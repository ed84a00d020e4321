"""Engines: audio chunks in, hypotheses out. One module or folder per model family; `base` holds the protocol."""
