"""Histories under load: real processes, real faults, each answer written down with its times, and judged by the checker."""
