"""The cost of a session, side by side in one run: ``python -m tests.benchmarks``, or ``make bench``."""
