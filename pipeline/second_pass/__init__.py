"""The second pass: a language model over the finished transcripts of a run, with a table of its own. docs/second_pass.md."""
