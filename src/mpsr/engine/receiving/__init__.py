"""The receiving engine."""
