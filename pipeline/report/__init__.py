"""What a person wants to know of a run: in the terminal (`text`) and as a page (`page`)."""
