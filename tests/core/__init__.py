"""Tests of the pure core: no I/O, no clock, no event loop."""
