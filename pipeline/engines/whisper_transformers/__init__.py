"""Whisper on transformers: checkpoints in Hugging Face format. Features, prompts and reading are those of `whisper`."""
