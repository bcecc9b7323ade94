"""Knowledge-graph embedding as MMEngine models; the method itself is in :mod:`dinor1.graph.kge`."""

from .nfe_link_predictor import NFELinkPredictor

__all__ = ['NFELinkPredictor']
