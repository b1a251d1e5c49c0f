"""Keep batches on the disk, in an append-only log of segments."""
