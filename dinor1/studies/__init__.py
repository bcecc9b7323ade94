"""Studies: run a grid of arms and seeds; tables and figures from the result files."""
