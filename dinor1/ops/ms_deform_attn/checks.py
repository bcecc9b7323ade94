"""Checks of the arguments of deformable attention, the same for every backend."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

LevelShapes = Tensor | Sequence[Sequence[int]]
LevelStarts = Tensor | Sequence[int]


def check_tensors(value: Tensor, **others: tuple[Tensor, Sequence[str]]) -> None:
    """Check that all tensors have the right number of axes, are floating point, and are on the device of ``value``.

    Args:
        value: ``(B, N, H, D)``.
        **others: name = (tensor, name of each axis).

    Raises:
        ValueError: a tensor fails a check.
    """
    for name, (tensor, layout) in {'value': (value, 'BNHD'), **others}.items():
        if tensor.dim() != len(layout):
            raise ValueError(f'{name} must be ({", ".join(layout)}), got shape {tuple(tensor.shape)}')
        if not tensor.is_floating_point():
            raise ValueError(f'{name} must be floating point, got {tensor.dtype}')
        if tensor.device != value.device:
            raise ValueError(f'{name} is on {tensor.device}, but value is on {value.device}')


def check_sampling_shapes(
    value: Tensor, num_levels: int, sampling_locations: Tensor, attention_weights: Tensor
) -> None:
    """Check the shapes of locations and weights against ``value`` and the number of levels."""
    _check_sizes(value, num_levels, sampling_locations=sampling_locations, attention_weights=attention_weights)


def check_prediction_shapes(
    value: Tensor, num_levels: int, reference_points: Tensor, sampling_offsets: Tensor, attention_logits: Tensor
) -> None:
    """Check the shapes of reference points, offsets and logits against ``value`` and the number of levels."""
    _check_sizes(value, num_levels, sampling_offsets=sampling_offsets, attention_logits=attention_logits)
    per_query = (value.shape[0], sampling_offsets.shape[1], num_levels)
    if reference_points.shape[:3] != per_query or reference_points.shape[3] not in (2, 4):
        raise ValueError(
            f'reference_points must be {(*per_query, 2)} points or {(*per_query, 4)} boxes to fit sampling_offsets, '
            f'got {tuple(reference_points.shape)}'
        )


def _check_sizes(value: Tensor, num_levels: int, **named: Tensor) -> None:
    """Check the shapes of the two tensors with values per sample: points ``(..., 2)`` first, then weights."""
    (points_name, points), (weights_name, weights) = named.items()
    expected = (value.shape[0], points.shape[1], value.shape[2], num_levels, points.shape[4])
    if points.shape != (*expected, 2):
        raise ValueError(
            f'{points_name} must be {(*expected, 2)} to fit value and spatial_shapes, got {tuple(points.shape)}'
        )
    if weights.shape != expected:
        raise ValueError(f'{weights_name} must be {expected} to fit {points_name}, got {tuple(weights.shape)}')


def checked_levels(spatial_shapes: LevelShapes, level_start_index: LevelStarts, num_keys: int) -> list[tuple[int, int]]:
    """Check the levels against ``num_keys`` features, and return (height, width) of each level as integers.

    Raises:
        ValueError: the shapes do not fit ``num_keys``, or the start indices do not fit the shapes.
    """
    # Read the numbers, which waits for the device if they are on a GPU.
    shapes: list[Any] = [tuple(int(side) for side in shape) for shape in _to_list(spatial_shapes)]
    starts = [int(start) for start in _to_list(level_start_index)]
    if not shapes or any(len(shape) != 2 or min(shape) < 1 for shape in shapes):
        raise ValueError(f'spatial_shapes must hold one positive (height, width) per level, got {shapes}')
    # Compare the sizes with the number of features, and the start indices with the sizes.
    sizes = [height * width for height, width in shapes]
    if sum(sizes) != num_keys:
        raise ValueError(f'spatial_shapes {shapes} hold {sum(sizes)} positions, but value holds {num_keys}')
    expected_starts = [sum(sizes[:level]) for level in range(len(sizes))]
    if starts != expected_starts:
        raise ValueError(f'level_start_index must be {expected_starts} for spatial_shapes {shapes}, got {starts}')
    return shapes


def level_tensors(value: Tensor, spatial_shapes: LevelShapes, level_start_index: LevelStarts) -> tuple[Tensor, Tensor]:
    """Check the levels if the host can read them without waiting, and return them as integer tensors.

    Numbers on an accelerator are not read, since the host would wait for the device; neither are numbers of a graph
    that is being compiled. In these cases the operator checks or guards them when it runs.

    Raises:
        ValueError: the levels do not fit each other or ``value``.
    """
    # Check the layout, which is known without reading numbers.
    for name, numbers, dims in (('spatial_shapes', spatial_shapes, 2), ('level_start_index', level_start_index, 1)):
        if isinstance(numbers, Tensor) and (numbers.dim() != dims or numbers.is_floating_point()):
            layout = '(L, 2)' if dims == 2 else '(L,)'
            raise ValueError(f'{name} must be {layout} integers, got {numbers.dtype} of shape {tuple(numbers.shape)}')
    # Check the numbers.
    if all(_is_readable(numbers) for numbers in (spatial_shapes, level_start_index)):
        checked_levels(spatial_shapes, level_start_index, value.shape[1])
    return _to_tensor(spatial_shapes), _to_tensor(level_start_index)


def _is_readable(numbers: Tensor | Sequence) -> bool:
    if not isinstance(numbers, Tensor):
        return True
    return numbers.device.type == 'cpu' and not torch.compiler.is_compiling()


def _to_list(numbers: Tensor | Sequence) -> list:
    return numbers.tolist() if isinstance(numbers, Tensor) else list(numbers)


def _to_tensor(numbers: Tensor | Sequence) -> Tensor:
    return numbers if isinstance(numbers, Tensor) else torch.tensor(numbers, dtype=torch.int64, device='cpu')
