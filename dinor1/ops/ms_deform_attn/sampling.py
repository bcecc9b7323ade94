"""Locations and weights of the samples of a block of queries, given or computed from predictions."""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn.reference import pixel_steps, sampling_from_offsets
from dinor1.utils.precision import compute_dtype


class Needed(NamedTuple):
    """Which gradients are needed.

    Attributes:
        value: Gradient of the features.
        sampling: Gradients of locations and weights, or of offsets and logits.
        reference: Gradient of the reference points, if there are any.
    """

    value: bool = True
    sampling: bool = True
    reference: bool = True

    def per_tensor(self, predicted: bool) -> tuple[bool, ...]:
        """Whether the gradient is needed, for value and each of the inputs of :class:`Operands`."""
        reference = (self.reference,) if predicted else ()
        return self.value, *reference, self.sampling, self.sampling


class Operands(NamedTuple):
    """Tensor arguments of an operator.

    Attributes:
        value: ``(B, N, H, D)``.
        spatial_shapes: ``(L, 2)``.
        level_start_index: ``(L,)``.
        inputs: (locations, weights), or (reference points, offsets, logits).
    """

    value: Tensor
    spatial_shapes: Tensor
    level_start_index: Tensor
    inputs: tuple[Tensor, ...]

    @property
    def predicted(self) -> bool:
        """Whether locations and weights are computed from predictions."""
        return len(self.inputs) == 3


class Sampling(ABC):
    """Locations and weights of samples.

    Attributes:
        shape: ``(B, Q, H, L, P)``.
        dtype: Dtype of the computation.
    """

    shape: torch.Size
    dtype: torch.dtype

    @abstractmethod
    def block(self, queries: slice) -> tuple[Tensor, Tensor]:
        """Locations ``(B, q, H, L, P, 2)`` and weights ``(B, q, H, L, P)`` of a slice of q queries."""

    @abstractmethod
    def empty_grads(self) -> tuple[Tensor, ...]:
        """One tensor per input, to be filled by :meth:`store_grads`."""

    @abstractmethod
    def store_grads(
        self,
        grads: tuple[Tensor, ...],
        queries: slice,
        weights: Tensor,
        grad_x: Tensor,
        grad_y: Tensor,
        grad_weights: Tensor,
    ) -> None:
        """Write the gradients of the inputs into ``grads``.

        Args:
            grads: Tensors of :meth:`empty_grads`.
            queries: The block of queries.
            weights: Weights of :meth:`block`, ``(B, q, H, L, P)``.
            grad_x: Gradient of the locations' x, ``(B, q, H, L, P)``.
            grad_y: Gradient of the locations' y, ``(B, q, H, L, P)``.
            grad_weights: Gradient of the weights, ``(B, q, H, L, P)``.
        """


class GivenSampling(Sampling):
    """Locations and weights that are given as inputs."""

    def __init__(self, value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> None:
        self.locations, self.weights = sampling_locations, attention_weights
        self.shape = attention_weights.shape
        self.dtype = compute_dtype(value, sampling_locations, attention_weights)

    def block(self, queries: slice) -> tuple[Tensor, Tensor]:
        """See :meth:`Sampling.block`."""
        return self.locations[:, queries].to(self.dtype), self.weights[:, queries].to(self.dtype)

    def empty_grads(self) -> tuple[Tensor, ...]:
        """See :meth:`Sampling.empty_grads`."""
        return torch.empty_like(self.locations), torch.empty_like(self.weights)

    def store_grads(self, grads, queries, weights, grad_x, grad_y, grad_weights) -> None:
        """See :meth:`Sampling.store_grads`."""
        grads[0][:, queries, ..., 0] = grad_x
        grads[0][:, queries, ..., 1] = grad_y
        grads[1][:, queries] = grad_weights


class PredictedSampling(Sampling):
    """Locations and weights that are computed from reference points, offsets and logits."""

    def __init__(
        self,
        value: Tensor,
        shapes: list[tuple[int, int]],
        reference_points: Tensor,
        sampling_offsets: Tensor,
        attention_logits: Tensor,
    ) -> None:
        self.shapes = shapes
        self.inputs = (reference_points, sampling_offsets, attention_logits)
        self.shape = attention_logits.shape
        self.dtype = compute_dtype(value, *self.inputs)

    def block(self, queries: slice) -> tuple[Tensor, Tensor]:
        """See :meth:`Sampling.block`."""
        reference_points, offsets, logits = (t[:, queries] for t in self.inputs)
        return sampling_from_offsets(self.shapes, reference_points, offsets, logits, self.dtype)

    def empty_grads(self) -> tuple[Tensor, ...]:
        """See :meth:`Sampling.empty_grads`."""
        return tuple(torch.empty_like(t) for t in self.inputs)

    def store_grads(self, grads, queries, weights, grad_x, grad_y, grad_weights) -> None:
        """See :meth:`Sampling.store_grads`."""
        # Reference points: locations are centre + offset * step, and the step of a box is proportional to its size.
        references, offsets = (t[:, queries].to(self.dtype) for t in self.inputs[:2])
        grad_locations = torch.stack((grad_x, grad_y), -1)
        grads[0][:, queries, ..., :2] = grad_locations.sum((2, 4))
        if references.shape[-1] == 2:
            steps = pixel_steps(self.shapes, self.dtype, references.device)
        else:
            per_step = 0.5 / self.shape[4]
            grads[0][:, queries, ..., 2:] = (grad_locations * offsets).sum((2, 4)) * per_step
            steps = references[:, :, None, :, None, 2:] * per_step
        # Offsets.
        grads[1][:, queries] = grad_locations.mul_(steps)
        # Logits, through the softmax.
        products = weights * grad_weights
        grads[2][:, queries] = torch.addcmul(products, weights, products.sum((3, 4), keepdim=True), value=-1)


def make_sampling(value: Tensor, shapes: list[tuple[int, int]], inputs: tuple[Tensor, ...]) -> Sampling:
    """Build the sampling from (locations, weights), or from (reference points, offsets, logits).

    Args:
        value: ``(B, N, H, D)``.
        shapes: (height, width) of each level.
        inputs: As in :class:`Operands`.
    """
    return PredictedSampling(value, shapes, *inputs) if len(inputs) == 3 else GivenSampling(value, *inputs)
