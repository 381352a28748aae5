"""Simulated users against real nodes that are killed, through each client side by side."""
