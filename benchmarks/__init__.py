"""Compare mpsr with its peers: the same work, in one run."""
