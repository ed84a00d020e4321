"""From hypotheses to transcripts: pure functions over records."""
