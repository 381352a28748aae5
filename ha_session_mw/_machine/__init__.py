"""This machine: shared files, forks, TLS."""
