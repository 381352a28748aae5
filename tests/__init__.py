"""Tests, the simulation and the benchmarks. Laid out as the package is."""
