"""A small and real app behind ``SessionMiddleware``, and a drill against it: ``python -m example_app``."""
