"""A deterministic simulation of the real core on a simulated network and simulated clocks. No asyncio, no real time."""
