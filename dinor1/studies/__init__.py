"""Studies: run a grid of arms and seeds; tables and figures from one table file per study."""
