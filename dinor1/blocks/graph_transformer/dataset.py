"""Generated CLUSTER and PATTERN data sets, and the collate function for graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.registry import FUNCTIONS
from torch import Tensor
from torch.utils.data import Dataset

from dinor1.registry import DATASETS
from dinor1.utils.dataclass_config import with_defaults
from dinor1.utils.errors import InputError

from .batching import Graph, complete_edges, disjoint_union
from .encoding import laplacian_positional_encoding
from .sbm import PatternParameters, make_sbm_cluster, make_sbm_pattern

SPLITS = ('train', 'val', 'test')
TASKS = ('cluster', 'pattern')
# Sizes of the published splits.
NUM_GRAPHS = {'cluster': (10_000, 1_000, 1_000), 'pattern': (10_000, 2_000, 2_000)}
# Number of graphs generated together; limits the memory before they are packed.
CHUNK = 500


@FUNCTIONS.register_module()
def graph_collate(graphs: Sequence[Graph]) -> dict[str, Tensor]:
    """Disjoint union of the graphs of a batch, without the fields that are None."""
    return {name: value for name, value in disjoint_union(graphs).items() if value is not None}


@dataclass(frozen=True)
class SBMGraphs:
    """Settings of the graphs that a data set draws.

    Attributes:
        num_graphs: Number of graphs; None: the size of the published split.
        size_min: Smallest community.
        size_max: Size of the largest community plus 1.
        num_patterns: See :class:`~dinor1.blocks.graph_transformer.PatternParameters`; not used for CLUSTER.
        seed: Seed of the graphs. Splits of one seed have different graphs but share their patterns.
    """

    num_graphs: int | None = None
    size_min: int = 5
    size_max: int = 35
    num_patterns: int | None = 100
    seed: int = 0


@DATASETS.register_module()
class SBMDataset(Dataset):
    """CLUSTER or PATTERN, generated from the published distribution (see :mod:`dinor1.blocks.graph_transformer.sbm`).

    Items are :class:`~dinor1.blocks.graph_transformer.Graph`; use ``collate_fn=dict(type='graph_collate')``. The same
    arguments give the same graphs. Generating takes about 3 ms for a graph of the published size, most of it for its
    Laplacian code. Edges are stored once in small integers, an eighth of the memory of the returned tensors.

    Args:
        task: ``cluster`` or ``pattern``.
        split: ``train``, ``val`` or ``test``.
        graphs: Which graphs to draw, :class:`SBMGraphs` or a dict of its fields.
        pe_dim: Columns of the Laplacian code, 0 = none.
        full_graph: Give every node an edge to every other; the code is still computed from the original edges.
        seed: Not used: there is no augmentation, and ``graphs`` has its own seed. ``dinor1 train --seed`` gives
            it to every training set.

    Raises:
        InputError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        task: str,
        split: str = 'train',
        graphs: SBMGraphs | Mapping[str, Any] | None = None,
        pe_dim: int = 0,
        full_graph: bool = False,
        seed: int | None = None,
    ) -> None:
        # Check the arguments.
        if task not in TASKS or split not in SPLITS:
            raise InputError(
                f'SBMDataset: expected a task of {", ".join(TASKS)} and a split of {", ".join(SPLITS)}; '
                f'got {task!r} and {split!r}'
            )
        graphs = with_defaults(graphs, SBMGraphs(), 'SBMDataset: graphs')
        self.full_graph = full_graph
        self.metainfo = dict(task=task)
        number = SPLITS.index(split)
        num_graphs = NUM_GRAPHS[task][number] if graphs.num_graphs is None else graphs.num_graphs
        options: dict[str, Any] = dict(size_min=graphs.size_min, size_max=graphs.size_max, split=number)
        # Generate the graphs chunk by chunk, and pack them.
        self._graphs: list[Graph] = []
        try:
            make = make_sbm_cluster
            if task == 'pattern':
                make, options['parameters'] = make_sbm_pattern, PatternParameters(num_patterns=graphs.num_patterns)
            # Run once even for 0 graphs, so that the arguments are checked.
            for start in range(0, max(1, num_graphs), CHUNK):
                chunk = make(min(CHUNK, num_graphs - start), graphs.seed, start=start, **options)
                self._graphs += [self._packed(graph, pe_dim) for graph in chunk]
        except ValueError as error:
            raise InputError(f'SBMDataset: {error}') from None

    @staticmethod
    def _packed(graph: Graph, pe_dim: int) -> Graph:
        """Add the code, and store each edge once in small integers."""
        source, target = graph.edge_index
        code = laplacian_positional_encoding(graph.edge_index, graph.num_nodes, pe_dim) if pe_dim else None
        edges = graph.edge_index[:, source < target].to(torch.int16)
        return Graph(graph.x.to(torch.uint8), edges, graph.y.to(torch.uint8), code)

    def __len__(self) -> int:
        return len(self._graphs)

    def __getitem__(self, index: int) -> Graph:
        graph = self._graphs[index]
        if self.full_graph:
            edges = complete_edges(graph.num_nodes)
        else:
            once = graph.edge_index.long()
            edges = torch.cat([once, once.flip(0)], 1)
        return Graph(graph.x.long(), edges, graph.y.long(), graph.pe)
