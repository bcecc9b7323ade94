"""Measurements against other implementations: operations, time and memory, in one run."""
