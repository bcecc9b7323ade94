"""NFE as a model that MMEngine trains and tests."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.utils.errors import InputError

from .nfe import NFE
from .ranking import TIES, filtered_ranks


@MODELS.register_module()
class NFELinkPredictor(BaseModel):
    """Trains on triples, and ranks the tails of queries among all entities.

    Args:
        num_entities: Entities of the data set.
        num_relations: Relations of the data set, without reciprocals.
        num_negatives: Entities drawn per step to estimate the loss over all entities; ``None`` = all, as
            published.
        penalty: ``dict(weight=..., p=3.0)`` adds :meth:`NFE.penalty`; ``None`` = none, as published.
        ties: See :func:`~dinor1.blocks.nfe.filtered_ranks`.
        data_preprocessor: See MMEngine's ``BaseModel``.
        nfe: Further arguments of :class:`~dinor1.blocks.nfe.NFE`: ``dim``, ``kind``, ``gamma`` and so on.

    Raises:
        InputError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        num_negatives: int | None = None,
        penalty: dict[str, float] | None = None,
        ties: str = 'pessimistic',
        data_preprocessor: dict | None = None,
        **nfe: Any,
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        # Check the arguments.
        if num_negatives is not None and not 0 < num_negatives <= num_entities:
            raise InputError(
                f'num_negatives must be in [1, {num_entities}], the number of entities; got {num_negatives}'
            )
        if ties not in TIES:
            raise InputError(f'ties must be one of {", ".join(TIES)}; got {ties!r}')
        # Build the model, and report its errors as errors of the config.
        try:
            self.nfe = NFE(num_entities, num_relations, reciprocal=True, **nfe)
        except ValueError as error:
            raise InputError(f'NFELinkPredictor: {error}') from None
        self.num_negatives, self.penalty, self.ties = num_negatives, penalty, ties

    def forward(
        self, triple: Tensor | Sequence[Tensor], known: Sequence[Tensor] | None = None, mode: str = 'tensor'
    ) -> Tensor | dict[str, Tensor] | list[dict[str, float]]:
        """Score, train on, or rank a batch of :class:`~dinor1.blocks.nfe.dataset.KnowledgeGraphDataset`.

        Args:
            triple: ``(B, 3)``, or B times ``(3,)``.
            known: B times ``(k,)``, the known tails, which the ranking ignores.
            mode: ``tensor``, ``loss`` or ``predict``.

        Returns:
            ``tensor``: the scores ``(B,)``. ``loss``: a dict of scalars. ``predict``: for each query its ``rank``,
            from 1, and its ``relation``.
        """
        if not isinstance(triple, Tensor):
            triple = torch.stack(list(triple))
        if mode == 'tensor':
            return self.nfe.score(*triple.unbind(1))
        if mode == 'loss':
            return self.loss(triple)
        if mode == 'predict':
            return self.predict(triple, known)
        raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")

    def loss(self, triple: Tensor) -> dict[str, Tensor]:
        """Losses of ``(B, 3)`` triples: ``loss_link``, and ``loss_penalty`` with ``penalty``."""
        # Draw the entities that are negatives of the whole batch.
        negatives = None
        if self.num_negatives is not None:
            negatives = torch.randperm(self.nfe.num_entities, device=triple.device)[: self.num_negatives]
        # Compute the losses.
        losses = dict(loss_link=self.nfe.loss(*triple.unbind(1), negatives=negatives))
        if self.penalty is not None:
            settings = dict(self.penalty)
            losses['loss_penalty'] = settings.pop('weight') * self.nfe.penalty(*triple.unbind(1), **settings)
        return losses

    def predict(self, triple: Tensor, known: Sequence[Tensor]) -> list[dict[str, float]]:
        """Filtered ranks of ``(B, 3)`` triples."""
        # List the known tails of all queries, and rank.
        heads, relations, tails = triple.unbind(1)
        counts = torch.tensor([len(row) for row in known], device=triple.device)
        rows = torch.arange(len(triple), device=triple.device).repeat_interleave(counts)
        scores = self.nfe.score_all(heads, relations)
        ranks = filtered_ranks(scores, tails, rows, torch.cat(list(known)), ties=self.ties)
        return [
            dict(rank=rank, relation=relation)
            for rank, relation in zip(ranks.tolist(), relations.tolist(), strict=True)
        ]
