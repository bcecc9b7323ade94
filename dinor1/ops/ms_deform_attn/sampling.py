"""Where an attention samples and with what weight, block of queries by block: given, or computed inside."""

from typing import Protocol

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn.reference import compute_dtype, pixel_steps, sampling_from_offsets


class Sampling(Protocol):
    """Locations and weights of samples.

    Attributes:
        shape: ``(B, Q, H, L, P)``.
        dtype: To compute in.
    """

    shape: torch.Size
    dtype: torch.dtype

    def block(self, queries: slice) -> tuple[Tensor, Tensor]:
        """Locations ``(B, q, H, L, P, 2)`` and weights ``(B, q, H, L, P)`` of some queries."""

    def empty_grads(self) -> tuple[Tensor, ...]:
        """One tensor per input, to be filled by :meth:`store_grads`."""

    def store_grads(
        self,
        grads: tuple[Tensor, ...],
        queries: slice,
        weights: Tensor,
        grad_x: Tensor,
        grad_y: Tensor,
        grad_weights: Tensor,
    ) -> None:
        """Write the gradients of the inputs, given some queries' weights and the gradients of locations and weights."""


class GivenSampling:
    """Locations and weights are the inputs themselves."""

    def __init__(self, value: Tensor, sampling_locations: Tensor, attention_weights: Tensor) -> None:
        self.locations, self.weights = sampling_locations, attention_weights
        self.shape = attention_weights.shape
        self.dtype = compute_dtype(value, sampling_locations, attention_weights)

    def block(self, queries: slice) -> tuple[Tensor, Tensor]:
        return self.locations[:, queries].to(self.dtype), self.weights[:, queries].to(self.dtype)

    def empty_grads(self) -> tuple[Tensor, ...]:
        return torch.empty_like(self.locations), torch.empty_like(self.weights)

    def store_grads(self, grads, queries, weights, grad_x, grad_y, grad_weights) -> None:
        grads[0][:, queries, ..., 0] = grad_x
        grads[0][:, queries, ..., 1] = grad_y
        grads[1][:, queries] = grad_weights


class PredictedSampling:
    """Locations and weights follow from reference points, offsets and logits."""

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
        return sampling_from_offsets(self.shapes, *(t[:, queries] for t in self.inputs), dtype=self.dtype)

    def empty_grads(self) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(t) for t in self.inputs)

    def store_grads(self, grads, queries, weights, grad_x, grad_y, grad_weights) -> None:
        references, offsets = (t[:, queries].to(self.dtype) for t in self.inputs[:2])
        grad_locations = torch.stack((grad_x, grad_y), -1)
        # Locations are centre + offset * step, where a box's step grows with its size.
        grads[0][:, queries, ..., :2] = grad_locations.sum((2, 4))
        if references.shape[-1] == 2:
            steps = pixel_steps(self.shapes, self.dtype, references.device)
        else:
            per_step = 0.5 / self.shape[4]
            grads[0][:, queries, ..., 2:] = (grad_locations * offsets).sum((2, 4)) * per_step
            steps = references[:, :, None, :, None, 2:] * per_step
        grads[1][:, queries] = grad_locations.mul_(steps)
        products = weights * grad_weights
        grads[2][:, queries] = torch.addcmul(products, weights, products.sum((3, 4), keepdim=True), value=-1)
