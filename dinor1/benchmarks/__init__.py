"""Benchmarks against other implementations: number of operations, time and memory."""
