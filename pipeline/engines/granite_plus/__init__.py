"""IBM Granite Speech Plus: transcripts with speaker turns or word times, of long stretches of speech."""
