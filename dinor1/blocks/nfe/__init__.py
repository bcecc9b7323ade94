"""Knowledge-graph embedding by normalizing flows: model, loss, triples, and filtered ranking."""

from .completion import graph_triples, predict_missing_edges
from .fit import fit
from .kinds import KINDS
from .known_tails import KnownTails
from .nfe import NFE
from .ranking import filtered_ranking, filtered_ranks, ranking_metrics
from .triples import TripleDataset, with_reciprocals
from .vocabulary import Vocabulary

__all__ = [
    'KINDS',
    'NFE',
    'KnownTails',
    'TripleDataset',
    'Vocabulary',
    'filtered_ranking',
    'filtered_ranks',
    'fit',
    'graph_triples',
    'predict_missing_edges',
    'ranking_metrics',
    'with_reciprocals',
]
