"""`quarry backfill`: an archive that grows, partition by partition, the same command every night."""
