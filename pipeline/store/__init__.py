"""Where a run lives: objects (the one door to storage), parts, the ledger, the snapshot."""
