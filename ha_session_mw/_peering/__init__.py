"""Signed HTTP between the nodes."""
