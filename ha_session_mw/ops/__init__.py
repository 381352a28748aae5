"""Metrics and health, for operators. Reads the node's state and waits for nothing."""
