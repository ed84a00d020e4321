"""`quarry export`: a finished run's transcripts as the files that other programs read. Renders; recognises and scores nothing."""
