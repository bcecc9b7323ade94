"""Graphs: graph transformer, positional encodings, category graph, and knowledge-graph embedding in :mod:`.kge`."""
