"""Receive and send, never waiting."""
