"""The contracts of a cluster log, a store and a lock service as tests."""
