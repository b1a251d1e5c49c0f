"""Run a fleet of funnels against a cluster of nats-server, on one machine."""
