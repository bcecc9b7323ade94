"""ODinW: the data sets of the benchmark, runs on them, and tables of the results."""
