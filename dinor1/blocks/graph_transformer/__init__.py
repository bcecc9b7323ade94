"""Graph transformer: layers, network, positional encoding, losses, batching, and SBM graphs as a test case."""

from .attention import graph_attention
from .batching import Graph, complete_edges, disjoint_union
from .dense import DenseBlocks, dense_attention, dense_blocks
from .encoding import laplacian_positional_encoding, random_sign_flip
from .layer import GraphTransformerLayer
from .network import GraphTransformer
from .objectives import class_weights, sbm_accuracy, weighted_node_cross_entropy
from .readout import READOUTS, read_out
from .sbm import ClusterParameters, PatternParameters, make_sbm_cluster, make_sbm_pattern
from .weisfeiler_lehman import weisfeiler_lehman_codes

__all__ = [
    'READOUTS',
    'ClusterParameters',
    'DenseBlocks',
    'Graph',
    'GraphTransformer',
    'GraphTransformerLayer',
    'PatternParameters',
    'class_weights',
    'complete_edges',
    'dense_attention',
    'dense_blocks',
    'disjoint_union',
    'graph_attention',
    'laplacian_positional_encoding',
    'make_sbm_cluster',
    'make_sbm_pattern',
    'random_sign_flip',
    'read_out',
    'sbm_accuracy',
    'weighted_node_cross_entropy',
    'weisfeiler_lehman_codes',
]
