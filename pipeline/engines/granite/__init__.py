"""The autoregressive Granite Speech models: transcription, translation, keywords, punctuation."""
