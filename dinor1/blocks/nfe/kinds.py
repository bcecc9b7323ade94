"""Similarity of two flows: the scores of all instances of NFE, and of TransE and DistMult.

Xiao, He and Cao, *Knowledge Graph Embedding by Normalizing Flows*, AAAI 2023, arXiv 2409.19977. An entity is a map of
the real line that transforms a base variable Z (mean 0, variance 1, symmetric), a relation is an affine map
``r(z) = r_s z + r_m``, and the score of a triple (h, r, t) is the similarity of ``r(h(Z))`` and ``t(Z)``, summed over d
independent coordinates. The instances have the names of the paper's settings:

==========  ==================================  =====================================================================
kind        entity h(z)                         score
==========  ==================================  =====================================================================
nfe-1       h_s z + h_m                         gamma - squared 2-Wasserstein distance
nfe-2       h_a z + h_m left of 0, h_b z + h_m  the same
            right of it
nfe-3       h_s z + h_m                         gamma - KL(r(h(Z)) || t(Z)), Gaussian
nfe-mu      without uncertainty: h_m            gamma - sum (r_s h_m + r_m - t_m)^2
nfe-sigma   scale alone: h_s z                  gamma - sum (|r_s h_s| - |t_s|)^2
transe      no flow: a vector                   gamma - |h + r - t|^2
distmult    no flow: a vector                   sum h r t
==========  ==================================  =====================================================================

Slopes are unconstrained; their absolute values are used. The optimal coupling of two maps of Z is Z itself, so the
squared 2-Wasserstein distance is their distance in L2(Z). It is a squared Euclidean distance if each map is written in
an orthonormal basis of functions of Z: 1 and Z for affine maps, and also ``(|Z| - c) / sqrt(1 - c^2)`` with
``c = E|Z|`` for maps with a kink. The distance to all entities is then one matrix product.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# E|Z| of the base variable, which has variance 1.
MEAN_ABS = {'normal': math.sqrt(2 / math.pi), 'uniform': math.sqrt(3) / 2}


class Features(NamedTuple):
    """One side of a bilinear score: ``score = <query.vector, key.vector> + query.bias + key.bias``.

    Attributes:
        vector: ``(..., K)``.
        bias: ``(...)``.
    """

    vector: Tensor
    bias: Tensor


class Kind(ABC):
    """Score function. Rows are ``(..., width)``: means first, then slopes.

    Attributes:
        parts: Width of an entity's row in units of d; a relation's row has 2.
        affine: Parts of a relation's row that form its map of the means: ``'scale and shift'``, ``'shift'`` (scale 1)
            or ``'scale'`` (shift 0).
        slopes: Whether entities have slopes, which give an uncertainty.
    """

    parts = 2
    affine = 'scale and shift'
    slopes = True

    @abstractmethod
    def score(self, head: Tensor, relation: Tensor, tail: Tensor, gamma: float) -> Tensor:
        """Scores ``(...)`` of rows that broadcast."""

    @abstractmethod
    def query(self, head: Tensor, relation: Tensor, gamma: float) -> Features:
        """Features of (head, relation)."""

    @abstractmethod
    def key(self, tail: Tensor) -> Features:
        """Features of the tail."""

    def scale(self, entity: Tensor) -> Tensor:
        """Absolute values of an entity's slopes, ``(..., d)`` or wider."""
        return entity[..., entity.shape[-1] // self.parts :].abs()


class Distance(Kind):
    """``gamma`` minus a squared Euclidean distance; subclasses define the two points."""

    @abstractmethod
    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """Coordinates of r(h(Z))."""

    @abstractmethod
    def target(self, tail: Tensor) -> Tensor:
        """Coordinates of t(Z)."""

    def score(self, head: Tensor, relation: Tensor, tail: Tensor, gamma: float) -> Tensor:
        """See :meth:`Kind.score`."""
        return gamma - (self.source(head, relation) - self.target(tail)).square().sum(-1)

    def query(self, head: Tensor, relation: Tensor, gamma: float) -> Features:
        """See :meth:`Kind.query`."""
        source = self.source(head, relation)
        return Features(2 * source, gamma - source.square().sum(-1))

    def key(self, tail: Tensor) -> Features:
        """See :meth:`Kind.key`."""
        target = self.target(tail)
        return Features(target, -target.square().sum(-1))


class Affine(Distance):
    """NFE-1: affine maps, compared by Wasserstein distance."""

    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """See :meth:`Distance.source`."""
        mean, slope = head.chunk(2, -1)
        shift, scale = relation.chunk(2, -1)
        return torch.cat([scale * mean + shift, (scale * slope).abs()], -1)

    def target(self, tail: Tensor) -> Tensor:
        """See :meth:`Distance.target`."""
        mean, slope = tail.chunk(2, -1)
        return torch.cat([mean, slope.abs()], -1)


class PiecewiseLinear(Distance):
    """NFE-2: maps with a kink at 0, compared by Wasserstein distance.

    Args:
        base: ``'normal'`` or ``'uniform'`` on [-sqrt 3, sqrt 3].
        exact_sign: A relation with negative scale mirrors the line and so swaps the halves of r(h(Z)). False: do not
            swap them, as in the released code; the score is then not a distance of the two variables. True: swap them.
    """

    parts = 3

    def __init__(self, base: str = 'normal', exact_sign: bool = False) -> None:
        self.mean_abs = MEAN_ABS[base]
        self.exact_sign = exact_sign

    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """See :meth:`Distance.source`."""
        mean, left, right = head.chunk(3, -1)
        shift, scale = relation.chunk(2, -1)
        if self.exact_sign:
            mirrored = scale < 0
            left, right = torch.where(mirrored, right, left), torch.where(mirrored, left, right)
        return self._coordinates(scale * mean + shift, (scale * left).abs(), (scale * right).abs())

    def target(self, tail: Tensor) -> Tensor:
        """See :meth:`Distance.target`."""
        mean, left, right = tail.chunk(3, -1)
        return self._coordinates(mean, left.abs(), right.abs())

    def _coordinates(self, mean: Tensor, left: Tensor, right: Tensor) -> Tensor:
        """Write the map ``mean + odd Z + even |Z|`` in the orthonormal basis."""
        odd, even = (left + right) / 2, (right - left) / 2
        return torch.cat([mean + self.mean_abs * even, odd, math.sqrt(1 - self.mean_abs**2) * even], -1)


class GaussianKL(Kind):
    """NFE-3: affine maps, compared by the KL divergence of normal variables.

    Slopes of entities and relations go through softplus instead of the absolute value, but a relation's plain scale
    multiplies the mean. This follows the released code; composition is not exact for the spread.
    """

    def score(self, head: Tensor, relation: Tensor, tail: Tensor, gamma: float) -> Tensor:
        """See :meth:`Kind.score`."""
        # Compute the spreads, then the KL divergence of two normal variables.
        mean, spread = self._source(head, relation)
        tail_mean, tail_slope = tail.chunk(2, -1)
        tail_spread = F.softplus(tail_slope)
        ratio = spread / tail_spread
        kl = (ratio.square() + ((mean - tail_mean) / tail_spread).square() - 1) / 2 - ratio.log()
        return gamma - kl.sum(-1)

    def query(self, head: Tensor, relation: Tensor, gamma: float) -> Features:
        """See :meth:`Kind.query`."""
        mean, spread = self._source(head, relation)
        vector = torch.cat([spread.square() + mean.square(), mean], -1)
        return Features(vector, gamma + (spread.log() + 0.5).sum(-1))

    def key(self, tail: Tensor) -> Features:
        """See :meth:`Kind.key`."""
        mean, slope = tail.chunk(2, -1)
        spread = F.softplus(slope)
        precision = spread.square().reciprocal()
        vector = torch.cat([-precision / 2, mean * precision], -1)
        return Features(vector, -(spread.log() + mean.square() * precision / 2).sum(-1))

    def scale(self, entity: Tensor) -> Tensor:
        """See :meth:`Kind.scale`."""
        return F.softplus(entity.chunk(2, -1)[1])

    @staticmethod
    def _source(head: Tensor, relation: Tensor) -> tuple[Tensor, Tensor]:
        mean, slope = head.chunk(2, -1)
        shift, scale = relation.chunk(2, -1)
        return scale * mean + shift, F.softplus(scale) * F.softplus(slope)


class MeanOnly(Distance):
    """NFE without uncertainty: rows have slopes, but they are not used, as in the release."""

    slopes = False

    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """See :meth:`Distance.source`."""
        shift, scale = relation.chunk(2, -1)
        return scale * head.chunk(2, -1)[0] + shift

    def target(self, tail: Tensor) -> Tensor:
        """See :meth:`Distance.target`."""
        return tail.chunk(2, -1)[0]


class SlopeOnly(Distance):
    """NFE-1 without means: rows have means and shifts, but they are not used, as in the release."""

    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """See :meth:`Distance.source`."""
        return (relation.chunk(2, -1)[1] * head.chunk(2, -1)[1]).abs()

    def target(self, tail: Tensor) -> Tensor:
        """See :meth:`Distance.target`."""
        return tail.chunk(2, -1)[1].abs()


class TransE(Distance):
    """Bordes et al., NeurIPS 2013, Eq. (1) with squared distance, over the whole row of width 2d."""

    affine = 'shift'
    slopes = False

    def source(self, head: Tensor, relation: Tensor) -> Tensor:
        """See :meth:`Distance.source`."""
        return head + relation

    def target(self, tail: Tensor) -> Tensor:
        """See :meth:`Distance.target`."""
        return tail


class DistMult(Kind):
    """Yang et al., ICLR 2015, arXiv 1412.6575, Eq. (2) with a diagonal matrix, over the whole row; without gamma."""

    affine = 'scale'
    slopes = False

    def score(self, head: Tensor, relation: Tensor, tail: Tensor, gamma: float) -> Tensor:
        """See :meth:`Kind.score`."""
        return (head * relation * tail).sum(-1)

    def query(self, head: Tensor, relation: Tensor, gamma: float) -> Features:
        """See :meth:`Kind.query`."""
        product = head * relation
        return Features(product, product.new_zeros(product.shape[:-1]))

    def key(self, tail: Tensor) -> Features:
        """See :meth:`Kind.key`."""
        return Features(tail, tail.new_zeros(tail.shape[:-1]))


KINDS: dict[str, type[Kind]] = {
    'nfe-1': Affine,
    'nfe-2': PiecewiseLinear,
    'nfe-3': GaussianKL,
    'nfe-mu': MeanOnly,
    'nfe-sigma': SlopeOnly,
    'transe': TransE,
    'distmult': DistMult,
}
