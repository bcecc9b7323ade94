"""Launch of the Triton kernels of deformable attention. Imported on first use, because Triton is optional."""

import contextlib
import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from dinor1.ops.ms_deform_attn import embedding_bag
from dinor1.ops.ms_deform_attn.checks import checked_levels
from dinor1.ops.ms_deform_attn.sampling import Needed, Operands, make_sampling
from dinor1.ops.ms_deform_attn.triton_kernels import backward_kernel, forward_kernel
from dinor1.utils.precision import compute_dtype

# Bytes of a tile per warp: eight single-precision numbers per thread, or one 16-byte load of half-precision numbers. A
# tile of as many double-precision numbers would need too many registers.
_TILE_BYTES = 1024


def launch_options(channels: int, dtype: torch.dtype) -> dict[str, int]:
    """Number of queries per block and number of warps, for heads of ``channels`` computed in ``dtype``.

    One warp is used as long as its tile holds four queries. The gradient of every sample is a sum over channels, whose
    result is then laid out along queries. This needs barriers between warps (15 in the backward kernel's machine code
    for compute capability 9.0 with four warps, in bfloat16), but none within a warp. :func:`forward` and
    :func:`backward` accept other options, so that those can be timed.
    """
    row_bytes = triton.next_power_of_2(channels) * dtype.itemsize
    block = max(4, _TILE_BYTES // row_bytes)
    return dict(BLOCK_Q=block, num_warps=min(4, block * row_bytes // _TILE_BYTES))


def forward(operands: Operands, options: dict[str, int] | None = None) -> Tensor:
    """Deformable attention of checked arguments.

    Args:
        operands: Arguments of the operator.
        options: Launch options, see :func:`launch_options`.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.
    """
    # Allocate the output; it is zero if there is nothing to sum.
    value, _, _, inputs = operands
    batch_size, _, num_heads, channels = value.shape
    num_queries = inputs[-1].shape[1]
    output = value.new_empty(batch_size, num_queries, num_heads * channels)
    if output.numel() == 0 or inputs[-1].numel() == 0:
        return output.zero_()
    # Launch the kernel.
    tensors, constants = _arguments(operands)
    options = options or launch_options(channels, compute_dtype(value, *inputs))
    with _on_device(value):
        forward_kernel[_grid(value, num_queries, options)](*tensors, output, *_sizes(tensors), **constants, **options)
    return output


def backward(
    grad: Tensor,
    operands: Operands,
    output: Tensor | None,
    deterministic: bool = False,
    needed: Needed | None = None,
    options: dict[str, int] | None = None,
) -> list[Tensor]:
    """Gradients of ``value`` and of each of ``inputs``; empty tensors where not needed.

    With ``deterministic``, :mod:`dinor1.ops.ms_deform_attn.embedding_bag` computes the gradient of ``value``: it sums
    in a fixed order, but copies the sizes of the levels to the host. The other gradients are always deterministic.

    Args:
        grad: Gradient of the output, ``(B, Q, H * D)``.
        operands: As in :func:`forward`.
        output: Output of :func:`forward`; used only if ``inputs`` are predictions.
        deterministic: Whether to sum the gradient of ``value`` in a fixed order.
        needed: Which gradients to compute. Default: all.
        options: Launch options, see :func:`launch_options`.
    """
    # Return zeros if there is nothing to sum.
    needed = needed or Needed()
    inputs, predicted = operands.inputs, operands.predicted
    num_queries = inputs[-1].shape[1]
    need_reference = needed.reference and predicted
    if grad.numel() == 0 or inputs[-1].numel() == 0:
        wanted = needed.per_tensor(predicted)
        return [t.new_zeros(t.shape if want else 0) for t, want in zip((operands.value, *inputs), wanted, strict=True)]

    # Allocate memory for the gradients.
    tensors, constants = _arguments(operands)
    value, _, _, reference, sampling, attention = tensors
    dtype = compute_dtype(value, *inputs)
    by_atomics = needed.value and not deterministic
    grad_value = value.new_zeros(value.shape if by_atomics else 0, dtype=dtype)
    grad_sampling, grad_attention = (
        torch.empty_like(t) if needed.sampling else t.new_empty(0) for t in (sampling, attention)
    )
    # One gradient per head, summed below, because two programs must not write to the same address.
    per_head = (*attention.shape[:4], reference.shape[-1]) if need_reference else 0
    grad_reference = reference.new_empty(per_head, dtype=dtype)

    # Launch the kernel.
    if by_atomics or needed.sampling or need_reference:
        options = options or launch_options(value.shape[-1], dtype)
        with _on_device(value):
            backward_kernel[_grid(value, num_queries, options)](
                grad.contiguous(),
                grad if output is None else output.contiguous(),
                *tensors,
                grad_value,
                grad_reference,
                grad_sampling,
                grad_attention,
                *_sizes(tensors),
                NEED_VALUE=by_atomics,
                NEED_SAMPLING=needed.sampling,
                NEED_REFERENCE=need_reference,
                **constants,
                **options,
            )
    # Sum the gradient of the features in a fixed order.
    if needed.value and deterministic:
        shapes = checked_levels(operands.spatial_shapes, operands.level_start_index, value.shape[1])
        samples = make_sampling(value, shapes, inputs)
        summed, _ = embedding_bag.backward(grad, value, shapes, samples, need_sampling=False)
        grad_value = grad_value if summed is None else summed
    # Convert the dtypes, and sum the gradient of the reference points over the heads.
    grads = [grad_value.to(value.dtype), grad_sampling, grad_attention]
    if predicted:
        grads.insert(1, (grad_reference.sum(2) if need_reference else grad_reference).to(reference.dtype))
    return grads


def _arguments(operands: Operands) -> tuple[tuple[Tensor, ...], dict]:
    """Tensors and compile-time constants that both kernels take."""
    # Reject features that 32-bit offsets cannot address.
    value, spatial_shapes, level_start_index, inputs = operands
    batch_size, num_keys, num_heads, channels = value.shape
    *_, num_levels, num_points = inputs[-1].shape
    if num_keys * num_heads * channels >= 2**31:
        raise ValueError(
            f'value has {num_keys * num_heads * channels} numbers per image, but the kernels address fewer than 2**31; '
            "name the backend 'reference'"
        )
    # Collect the tensors. A kernel takes a pointer for every tensor, even if it is not read.
    levels = [_on(value.device, t) for t in (spatial_shapes, level_start_index)]
    reference = inputs[0] if operands.predicted else value
    tensors = tuple(t.contiguous() for t in (value, *levels, reference, *inputs[-2:]))
    constants = dict(
        NUM_HEADS=num_heads,
        CHANNELS=channels,
        NUM_LEVELS=num_levels,
        NUM_POINTS=num_points,
        PREDICTED=operands.predicted,
        REFERENCE_DIM=reference.shape[-1] if operands.predicted else 2,
        BOX_STEP=0.5 / num_points,
        ACC=tl.float64 if compute_dtype(value, *inputs) == torch.float64 else tl.float32,
        BLOCK_D=triton.next_power_of_2(channels),
        BLOCK_S=triton.next_power_of_2(num_levels * num_points),
    )
    return tensors, constants


def _on(device: torch.device, numbers: Tensor) -> Tensor:
    """Copy levels to the device of the features, if they are not there; copies are cached."""
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
