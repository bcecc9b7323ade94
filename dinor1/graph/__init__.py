"""Graphs, in three packages that are imported by themselves.

- :mod:`.transformer`: graph transformer, positional encodings, graphs to try it on
- :mod:`.category`: the graph of a detector's classes, and prompts refined along it
- :mod:`.kge`: knowledge-graph embedding and link prediction
"""
