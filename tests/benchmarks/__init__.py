"""What a session costs, side by side in one run: ``python -m tests.benchmarks``, or ``make bench``."""
