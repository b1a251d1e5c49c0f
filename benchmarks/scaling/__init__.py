"""Simulate what cannot be measured on one machine: many hosts, and long outages."""
