"""ODinW: the benchmark's sets, runs on them, and tables of the results."""
