"""The sync fronts: wait in the calling thread."""
