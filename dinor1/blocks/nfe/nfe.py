"""NFE: knowledge-graph embedding by normalizing flows (Xiao, He and Cao, AAAI 2023, arXiv 2409.19977)."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dinor1.utils.precision import full_precision

from .kinds import KINDS, MEAN_ABS, Features, PiecewiseLinear
from .losses import logistic_loss
from .regularizer import power_norm

AffineMap = tuple[Tensor, Tensor]


def _full_precision(method: Callable) -> Callable:
    """Disable autocast: a squared distance written as a product loses its precision in 16 bits."""

    @functools.wraps(method)
    def wrapped(self: 'NFE', *args, **kwargs):
        with full_precision(self.entity.device):
            return method(self, *args, **kwargs)

    return wrapped


class NFE(nn.Module):
    """Entities and relations as flows; the score of a triple is the similarity of two flows (see :mod:`.kinds`).

    Args:
        num_entities: N.
        num_relations: R, without reciprocals.
        dim: d, the number of coordinates. Rows are wider: an entity has d means, then d slopes (``nfe-2``: d left and d
            right slopes), a relation d shifts, then d scales. ``transe`` and ``distmult`` use all 2d numbers in the
            same way.
        kind: One of ``nfe-1``, ``nfe-2``, ``nfe-3``, ``nfe-mu``, ``nfe-sigma``, ``transe``, ``distmult``.
        gamma: Constant of the score. It does not change ranks, but has a strong effect on training.
        base: Base variable, ``normal`` or ``uniform``; only for ``nfe-2``.
        exact_sign: Only for ``nfe-2``, see :class:`~dinor1.blocks.nfe.kinds.PiecewiseLinear`.
        init_bound: Both tables start uniform in [-init_bound, init_bound].
        reciprocal: The relation table has 2R rows, with the reciprocal of r in row r + R; otherwise R rows.
        feature_dim: Width of feature vectors that can describe entities instead of rows, see :meth:`score_features`.

    Raises:
        ValueError: an argument is out of range or unknown.
    """

    def __init__(
        self,
        num_entities: int,
        num_relations: int,
        dim: int = 200,
        kind: str = 'nfe-1',
        gamma: float = 1.0,
        base: str = 'normal',
        exact_sign: bool = False,
        init_bound: float = 0.1,
        reciprocal: bool = True,
        feature_dim: int | None = None,
    ) -> None:
        super().__init__()
        # Check the arguments.
        for name, value in dict(num_entities=num_entities, num_relations=num_relations, dim=dim).items():
            if value < 1:
                raise ValueError(f'{name} must be at least 1, got {value}')
        if kind not in KINDS:
            raise ValueError(f'kind must be one of {", ".join(KINDS)}; got {kind!r}')
        if base not in MEAN_ABS:
            raise ValueError(f'base must be one of {", ".join(MEAN_ABS)}; got {base!r}')
        # Create the tables, and a flow predictor for entities with features.
        self.num_entities, self.num_relations, self.dim = num_entities, num_relations, dim
        self.kind, self.gamma, self.reciprocal = kind, float(gamma), reciprocal
        self.flow = PiecewiseLinear(base, exact_sign) if kind == 'nfe-2' else KINDS[kind]()
        self.init_bound = init_bound
        self.entity = nn.Parameter(torch.empty(num_entities, self.flow.parts * dim))
        self.relation = nn.Parameter(torch.empty(num_relations * (1 + reciprocal), 2 * dim))
        self.feature_flow = nn.Linear(feature_dim, self.flow.parts * dim) if feature_dim else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise both tables."""
        nn.init.uniform_(self.entity, -self.init_bound, self.init_bound)
        nn.init.uniform_(self.relation, -self.init_bound, self.init_bound)
        if self.feature_flow is not None:
            self.feature_flow.reset_parameters()

    def extra_repr(self) -> str:
        """Settings for ``repr``."""
        return (
            f'{self.num_entities} entities, {self.num_relations} relations, dim={self.dim}, kind={self.kind!r}, '
            f'gamma={self.gamma}'
        )

    # Scores ------------------------------------------------------------------------------------------------

    @_full_precision
    def score(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Score triples; larger is better.

        Args:
            h: ``(B,)`` int64.
            r: ``(B,)`` int64, below R, or 2R with reciprocals.
            t: ``(B,)`` int64.

        Returns:
            ``(B,)``, unbounded; its sigmoid is the probability that the loss trains.

        Raises:
            ValueError: an index is out of range (checked on CPU only, since it would synchronise a GPU).
        """
        return self.flow.score(self._entities(h), self._relations(r), self._entities(t), self.gamma)

    @_full_precision
    def score_all(self, h: Tensor, r: Tensor) -> Tensor:
        """Score all entities as tails with one matrix product.

        Args:
            h: ``(B,)`` int64.
            r: ``(B,)`` int64.

        Returns:
            ``(B, N)``; column e is ``score(h, r, e)`` up to rounding.

        Raises:
            ValueError: an index is out of range.
        """
        return _outer(self._query(h, r), self.flow.key(self.entity))

    @_full_precision
    def score_features(self, head_features: Tensor, r: Tensor, tail_features: Tensor) -> Tensor:
        """Score entities that have features, such as a prompt embedding, instead of a row in the table.

        A linear layer predicts their flows. This is not in the paper.

        Args:
            head_features: ``(B, feature_dim)``.
            r: ``(B,)`` int64.
            tail_features: ``(C, feature_dim)``.

        Returns:
            ``(B, C)``.

        Raises:
            ValueError: the model was made without ``feature_dim``.
        """
        if self.feature_flow is None:
            raise ValueError('score_features needs a model made with feature_dim')
        heads, tails = self.feature_flow(head_features), self.feature_flow(tail_features)
        return _outer(self.flow.query(heads, self._relations(r), self.gamma), self.flow.key(tails))

    # Training ----------------------------------------------------------------------------------------------

    @_full_precision
    def loss(
        self,
        h: Tensor,
        r: Tensor,
        t: Tensor,
        *,
        positives: Tensor | None = None,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """Binary logistic loss of all entities as tails, summed over entities and averaged over the batch.

        Args:
            h: ``(B,)`` int64.
            r: ``(B,)`` int64.
            t: ``(B,)`` int64: the only positive of each row, as published; other known tails count as negatives.
            positives: ``(B, N)`` bool, True = positive. Replaces ``t``.
            negatives: ``(M,)`` int64, distinct entities drawn uniformly, from which the sum over entities is estimated
                without bias. ``None`` = all entities, as published.

        Returns:
            A scalar, at least 0, of the order of N before training. Memory grows with N + B, not with their product.

        Raises:
            ValueError: an index is out of range.
        """
        # List the positives.
        if positives is None:
            rows, tails = torch.arange(len(h), device=h.device), t
        else:
            rows, tails = positives.nonzero(as_tuple=True)
        # Without sampling, use all entities.
        if negatives is None:
            _check_numbers(tails, self.num_entities, 'entity')
            key = self.flow.key(self.entity)
            positive = Features(key.vector[tails], key.bias[tails])
            return logistic_loss(self._query(h, r), key, rows, positive)
        # Index into the table once: each indexing has a gradient of the size of the table.
        sizes = [len(h), len(tails), len(negatives)]
        heads, true, drawn = self._entities(torch.cat([h, tails, negatives])).split(sizes)
        return logistic_loss(
            self.flow.query(heads, self._relations(r), self.gamma),
            self.flow.key(drawn),
            rows,
            self.flow.key(true),
            weight=self.num_entities / len(negatives),
            counted=torch.isin(tails, negatives),
        )

    def penalty(self, h: Tensor, r: Tensor, t: Tensor, p: float = 3.0) -> Tensor:
        """:func:`~dinor1.blocks.nfe.regularizer.power_norm` of the rows of triples, each index ``(B,)``; a scalar."""
        return power_norm(self._entities(h), self._relations(r), self._entities(t), p=p)

    # Algebra of relations ----------------------------------------------------------------------------------

    def affine_map(self, r: Tensor) -> AffineMap:
        """Map of the means of relations ``(...)``, ``x -> scale x + shift``: scale and shift, each ``(..., width)``."""
        row = self._relations(r)
        if self.flow.affine == 'shift':
            return torch.ones_like(row), row
        if self.flow.affine == 'scale':
            return row, torch.zeros_like(row)
        shift, scale = row.chunk(2, -1)
        return scale, shift

    def compose(self, r1: Tensor | AffineMap, r2: Tensor | AffineMap) -> AffineMap:
        """Compose two maps, r1 first: ``x -> scale2 (scale1 x + shift1) + shift2``.

        Args:
            r1: Indices of relations ``(...)``, or maps from this method or :meth:`inverse`.
            r2: The same.

        Returns:
            ``(scale, shift)``, each ``(..., width)`` with width d (``transe``, ``distmult``: 2d).
        """
        (scale1, shift1), (scale2, shift2) = map(self._as_map, (r1, r2))
        return scale2 * scale1, scale2 * shift1 + shift2

    def inverse(self, r: Tensor | AffineMap) -> AffineMap:
        """Inverse map of r: ``x -> (x - shift) / scale``. Infinite where the scale is 0."""
        scale, shift = self._as_map(r)
        return scale.reciprocal(), -shift / scale

    def _as_map(self, r: Tensor | AffineMap) -> AffineMap:
        return self.affine_map(r) if isinstance(r, Tensor) else r

    @torch.no_grad()
    def uncertainty(self) -> Tensor:
        """Mean absolute slope of each entity, ``(N,)``, at least 0: the standard deviation of its flow of Z.

        Raises:
            ValueError: the kind has no uncertainty.
        """
        if not self.flow.slopes:
            raise ValueError(f'{self.kind} has no uncertainty; use nfe-1, nfe-2, nfe-3 or nfe-sigma')
        return self.flow.scale(self.entity).mean(-1)

    # Rows --------------------------------------------------------------------------------------------------

    def _query(self, h: Tensor, r: Tensor) -> Features:
        return self.flow.query(self._entities(h), self._relations(r), self.gamma)

    def _entities(self, numbers: Tensor) -> Tensor:
        _check_numbers(numbers, self.num_entities, 'entity')
        return self.entity[numbers]

    def _relations(self, numbers: Tensor) -> Tensor:
        _check_numbers(numbers, len(self.relation), 'relation')
        return self.relation[numbers]


def _outer(query: Features, key: Features) -> Tensor:
    return torch.addmm(key.bias, query.vector, key.vector.T) + query.bias[:, None]


def _check_numbers(numbers: Tensor, count: int, what: str) -> None:
    if numbers.device.type == 'cpu' and numbers.numel():
        low, high = numbers.aminmax()
        if low < 0 or high >= count:
            raise ValueError(f'{what} {int(low if low < 0 else high)} is unknown; indices are 0 to {count - 1}')
