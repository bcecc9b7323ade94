"""The category graph in a detector: prompts are refined between the prompt encoders and the transformer.

The module has one graph. Prompts from images or text come with the names of their classes; a class outside the graph
is a node without edges. Banks on disk hold prompts before refinement.
"""

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from dinor1.blocks.category_graph import CategoryGraph, PromptGraphRefiner, build_category_graph
from dinor1.registry import MODELS
from dinor1.structures import PromptSet

MODELS.register_module(module=PromptGraphRefiner)


@MODELS.register_module()
class CategoryGraphPrompts(nn.Module):
    """A :class:`~dinor1.blocks.category_graph.PromptGraphRefiner` and the graph that it works on.

    Checkpoints hold only the Laplacian code of the graph: eigenvectors of repeated eigenvalues are arbitrary, and
    another machine may compute other ones than the weights were trained with.

    Args:
        embed_dim: Width C of the prompts.
        graph: A file of ``tools/build_category_graph.py``, or arguments of
            :func:`~dinor1.blocks.category_graph.build_category_graph`, such as ``dict(names=[...], parents='words')``.
        **refiner: Arguments of ``PromptGraphRefiner``; the graph determines ``pe_dim`` and ``num_edge_types``.

    Raises:
        InputError: there is no such file, or no graph can be built.
    """

    def __init__(self, embed_dim: int, graph: str | PathLike | dict[str, Any], **refiner: Any) -> None:
        super().__init__()
        self._graph = build_category_graph(**graph) if isinstance(graph, dict) else CategoryGraph.load(graph)
        self.register_buffer('code', self._graph.pe)
        cfg = dict(
            type='PromptGraphRefiner',
            embed_dim=embed_dim,
            pe_dim=self.code.shape[1],
            num_edge_types=len(self._graph.relations),
        )
        # Restore the random state, so that the rest of the model starts from the same weights as without the graph.
        with torch.random.fork_rng(devices=[]):
            self.refiner = MODELS.build(cfg | refiner)

    @property
    def graph(self) -> CategoryGraph:
        """The graph with the code of the checkpoint, on the device of the module."""
        if self._graph.pe is not self.code:
            self._graph = self._graph.with_code(self.code)
        return self._graph

    def forward(self, embeddings: Tensor, names: Sequence[str | None]) -> Tensor:
        """Refine one prompt per class.

        Args:
            embeddings: (K, C).
            names: K class names; ``None``: a prompt of no class, treated like one outside the graph.

        Returns:
            (K, C).
        """
        return embeddings + self._delta(embeddings, names)

    def refine(self, prompts: PromptSet) -> PromptSet:
        """Refine the prompts of the offered classes.

        A class with several prompts (the tokens of its name) is refined by their mean, and the change of the mean is
        added to each prompt. Prompts of no class do not change.
        """
        # Find the offered classes, and the class of each prompt.
        offered = prompts.mask & (prompts.labels >= 0)
        classes, row = prompts.labels[offered].unique(return_inverse=True)
        if not len(classes):
            return prompts
        # Refine one prompt per class, and add the change to all prompts of the class.
        names = [prompts.names[i] for i in classes.tolist()]
        delta = self._delta(prompts.class_embeddings()[classes], names)
        embeddings = prompts.embeddings.clone()
        embeddings[offered] = embeddings[offered] + delta[row]
        return replace(prompts, embeddings=embeddings)

    def _delta(self, embeddings: Tensor, names: Sequence[str | None]) -> Tensor:
        keep = torch.tensor(self.graph.find(names), device=embeddings.device)
        return self.refiner.delta(embeddings, self.graph, keep)
