"""The graph transformer as an MMEngine model; the method itself is in :mod:`dinor1.graph.transformer`."""

from .graph_predictor import GraphPredictor

__all__ = ['GraphPredictor']
