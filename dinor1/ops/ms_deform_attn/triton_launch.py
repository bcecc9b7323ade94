"""Launching the Triton kernels of deformable attention. Imported only where they are used: Triton is optional."""

import contextlib
import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from dinor1.ops.ms_deform_attn import embedding_bag as msda_bags
from dinor1.ops.ms_deform_attn.checks import checked_levels
from dinor1.ops.ms_deform_attn.reference import compute_dtype
from dinor1.ops.ms_deform_attn.sampling import GivenSampling, PredictedSampling
from dinor1.ops.ms_deform_attn.triton_kernels import backward_kernel, forward_kernel

# Bytes of a tile per warp: eight single-precision numbers per thread, one 16-byte load of halves. With double precision
# in as large a tile, registers would not suffice.
_TILE_BYTES = 1024


def launch_options(channels: int, dtype: torch.dtype) -> dict[str, int]:
    """Block of queries and warps for heads of ``channels``, computed in ``dtype``.

    One warp as long as its tile holds four queries. The gradient of every sample is a sum over channels, whose result
    is then laid out along queries: that needs barriers among warps (15 in the backward kernel's machine code for
    compute capability 9.0 with four warps, in bfloat16), and none within one. Both entry points take other options, to
    be timed.
    """
    row_bytes = triton.next_power_of_2(channels) * dtype.itemsize
    block = max(4, _TILE_BYTES // row_bytes)
    return dict(BLOCK_Q=block, num_warps=min(4, block * row_bytes // _TILE_BYTES))


def forward(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    inputs: tuple[Tensor, ...],
    options: dict[str, int] | None = None,
) -> Tensor:
    """Deformable attention of checked arguments.

    Args:
        value: ``(B, N, H, D)``.
        spatial_shapes: ``(L, 2)``.
        level_start_index: ``(L,)``.
        inputs: (locations, weights), or (reference points, offsets, logits).
        options: Launch options, see :func:`launch_options`.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.
    """
    batch_size, _, num_heads, channels = value.shape
    num_queries = inputs[-1].shape[1]
    output = value.new_empty(batch_size, num_queries, num_heads * channels)
    if output.numel() == 0 or inputs[-1].numel() == 0:
        return output.zero_()
    tensors, constants = _arguments(value, spatial_shapes, level_start_index, inputs)
    options = options or launch_options(channels, compute_dtype(value, *inputs))
    with _on_device(value):
        forward_kernel[_grid(value, num_queries, options)](*tensors, output, *_sizes(tensors), **constants, **options)
    return output


def backward(
    grad: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    inputs: tuple[Tensor, ...],
    output: Tensor | None,
    deterministic: bool = False,
    need_value: bool = True,
    need_sampling: bool = True,
    need_reference: bool = True,
    options: dict[str, int] | None = None,
) -> list[Tensor]:
    """Gradients of ``value`` and of each of ``inputs``; empty where not needed.

    Deterministic, the gradient of ``value`` comes from :mod:`dinor1.ops.ms_deform_attn.embedding_bag`, which sums in a fixed order but
    fetches the levels' sizes. The other gradients are deterministic in any case.

    Args:
        grad: ``(B, Q, H * D)``.
        value: As in :func:`forward`, and the four arguments after it.
        spatial_shapes: See there.
        level_start_index: See there.
        inputs: See there.
        output: What :func:`forward` returned; needed with reference points only.
        deterministic: Sum the gradient of ``value`` in a fixed order.
        need_value: Whether the gradient of ``value`` is wanted.
        need_sampling: Whether those of the last two of ``inputs`` are.
        need_reference: Whether that of the reference points is, if there are any.
        options: Launch options, see :func:`launch_options`.
    """
    num_queries, predicted = inputs[-1].shape[1], len(inputs) == 3
    need_reference &= predicted
    if grad.numel() == 0 or inputs[-1].numel() == 0:
        needed = (need_value, *[need_reference] * predicted, need_sampling, need_sampling)
        return [t.new_zeros(t.shape if need else 0) for t, need in zip((value, *inputs), needed, strict=True)]
    tensors, constants = _arguments(value, spatial_shapes, level_start_index, inputs)
    value, _, _, reference, first, second = tensors
    dtype = compute_dtype(value, *inputs)
    by_atomics = need_value and not deterministic
    grad_value = value.new_zeros(value.shape if by_atomics else 0, dtype=dtype)
    grad_first, grad_second = (torch.empty_like(t) if need_sampling else t.new_empty(0) for t in (first, second))
    # Summed over heads below, since different programs must not write to one place.
    per_head = (*second.shape[:4], reference.shape[-1]) if need_reference else 0
    grad_reference = reference.new_empty(per_head, dtype=dtype)
    if by_atomics or need_sampling or need_reference:
        options = options or launch_options(value.shape[-1], dtype)
        with _on_device(value):
            backward_kernel[_grid(value, num_queries, options)](
                grad.contiguous(),
                grad if output is None else output.contiguous(),
                *tensors,
                grad_value,
                grad_reference,
                grad_first,
                grad_second,
                *_sizes(tensors),
                NEED_VALUE=by_atomics,
                NEED_SAMPLING=need_sampling,
                NEED_REFERENCE=need_reference,
                **constants,
                **options,
            )
    if need_value and deterministic:
        shapes = checked_levels(spatial_shapes, level_start_index, value.shape[1])
        sampling = PredictedSampling(value, shapes, *inputs) if predicted else GivenSampling(value, *inputs)
        grad_value, _ = msda_bags.backward(grad, value, shapes, sampling, need_sampling=False)
    grads = [grad_value.to(value.dtype), grad_first, grad_second]
    if predicted:
        grads.insert(1, (grad_reference.sum(2) if need_reference else grad_reference).to(reference.dtype))
    return grads


def _arguments(
    value: Tensor, spatial_shapes: Tensor, level_start_index: Tensor, inputs: tuple[Tensor, ...]
) -> tuple[tuple[Tensor, ...], dict]:
    """Tensors and compile-time constants that both kernels take."""
    batch_size, num_keys, num_heads, channels = value.shape
    *_, num_levels, num_points = inputs[-1].shape
    if num_keys * num_heads * channels >= 2**31:
        raise ValueError(
            f'value has {num_keys * num_heads * channels} numbers per image, and the kernels count to 2**31; '
            "name the backend 'definition'"
        )
    levels = [_on(value.device, t) for t in (spatial_shapes, level_start_index)]
    predicted = len(inputs) == 3
    # A kernel takes a pointer for every tensor, read or not.
    reference = inputs[0] if predicted else value
    tensors = tuple(t.contiguous() for t in (value, *levels, reference, *inputs[-2:]))
    constants = dict(
        NUM_HEADS=num_heads,
        CHANNELS=channels,
        NUM_LEVELS=num_levels,
        NUM_POINTS=num_points,
        PREDICTED=predicted,
        REFERENCE_DIM=reference.shape[-1] if predicted else 2,
        BOX_STEP=0.5 / num_points,
        ACC=tl.float64 if compute_dtype(value, *inputs) == torch.float64 else tl.float32,
        BLOCK_D=triton.next_power_of_2(channels),
        BLOCK_S=triton.next_power_of_2(num_levels * num_points),
    )
    return tensors, constants


def _on(device: torch.device, numbers: Tensor) -> Tensor:
    """Levels on the device of the features; what came as Python's integers is copied there once."""
    if numbers.device == device:
        return numbers
    flat = tuple(numbers.flatten().tolist())
    return _copied(flat, tuple(numbers.shape), device)


@functools.lru_cache(maxsize=64)
def _copied(flat: tuple[int, ...], shape: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(flat, dtype=torch.int64, device=device).view(shape)


def _sizes(tensors: tuple[Tensor, ...]) -> tuple[int, int]:
    """Numbers of queries and of keys."""
    return tensors[-1].shape[1], tensors[0].shape[1]


def _grid(value: Tensor, num_queries: int, options: dict[str, int]) -> tuple[int, int, int]:
    return triton.cdiv(num_queries, options['BLOCK_Q']), value.shape[2], value.shape[0]


def _on_device(value: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(value.device) if value.is_cuda else contextlib.nullcontext()
