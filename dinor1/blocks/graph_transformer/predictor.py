"""The graph transformer as a model that MMEngine trains and tests."""

from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

from .encoding import random_sign_flip
from .network import GraphTransformer
from .objectives import weighted_node_cross_entropy

TASKS = ('node', 'graph')
FLIPS = ('batch', 'graph')


@MODELS.register_module()
class GraphPredictor(BaseModel):
    """Classifies the nodes of graphs, or predicts numbers for whole graphs.

    Args:
        task: ``node``: classify nodes, by cross-entropy with larger weights for small classes; ``graph``: predict
            numbers for a graph, by their absolute error.
        out_dim: Number of classes, or of numbers.
        pe_dim: Columns of the positional code; with 0 the code of the data is ignored.
        sign_flip: In training, draw the signs of the code for each ``batch``, as published, or for each ``graph``.
        data_preprocessor: See MMEngine's ``BaseModel``.
        network: Further arguments of :class:`~dinor1.blocks.graph_transformer.GraphTransformer`.

    Raises:
        InputError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        task: str,
        out_dim: int,
        pe_dim: int = 0,
        sign_flip: str = 'batch',
        data_preprocessor: dict | None = None,
        **network: Any,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        # Check the task and its readout.
        if task not in TASKS or sign_flip not in FLIPS:
            raise InputError(
                f'GraphPredictor: expected a task of {", ".join(TASKS)} and a sign_flip of {", ".join(FLIPS)}; '
                f'got {task!r} and {sign_flip!r}'
            )
        network.setdefault('readout', None if task == 'node' else 'mean')
        if (network['readout'] is None) != (task == 'node'):
            raise InputError(f'GraphPredictor: readout {network["readout"]!r} does not fit the task {task!r}')
        # Build the network, and report its errors as errors of the config.
        try:
            self.network = GraphTransformer(out_dim=out_dim, pe_dim=pe_dim, **network)
        except ValueError as error:
            raise InputError(f'GraphPredictor: {error}') from None
        self.task, self.out_dim, self.sign_flip = task, out_dim, sign_flip

    def forward(
        self,
        x: Tensor,
        edge_index: Tensor,
        batch: Tensor,
        sizes: Tensor,
        y: Tensor | None = None,
        pe: Tensor | None = None,
        edge_attr: Tensor | None = None,
        mode: str = 'tensor',
    ) -> Tensor | dict[str, Tensor] | list[Tensor]:
        """Run the network on a batch from :func:`~dinor1.blocks.graph_transformer.dataset.graph_collate`.

        Args:
            x: ``(N,)`` or ``(N, F)``.
            edge_index: ``(2, E)``.
            batch: ``(N,)``, the graph of each node.
            sizes: ``(G,)``, the nodes of each graph.
            y: ``(N,)`` classes, or ``(G, out_dim)`` numbers.
            pe: ``(N, pe_dim)``.
            edge_attr: ``(E,)`` or ``(E, F)``.
            mode: ``tensor``, ``loss`` or ``predict``.

        Returns:
            ``tensor``: ``(N, out_dim)`` or ``(G, out_dim)``. ``loss``: a dict with one scalar. ``predict``: the
            output of each graph, ``(n, out_dim)`` or ``(out_dim,)``.
        """
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")
        # Drop or flip the positional code.
        if not self.network.pe_dim:
            pe = None
        elif self.training and pe is not None:
            pe = random_sign_flip(pe, batch=batch if self.sign_flip == 'graph' else None)
        out = self.network(x, edge_index, edge_attr=edge_attr, pe=pe, batch=batch, num_graphs=len(sizes))
        # Return losses, one prediction per graph, or the raw output.
        if mode == 'loss':
            if self.task == 'graph':
                return dict(loss_l1=F.l1_loss(out, y))
            return dict(loss_node=weighted_node_cross_entropy(out, y, self.out_dim))
        if mode == 'predict':
            return list(out.split(sizes.tolist()) if self.task == 'node' else out)
        return out
