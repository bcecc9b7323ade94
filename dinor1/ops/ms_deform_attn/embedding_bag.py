"""Deformable attention by ``embedding_bag``, in plain torch: the backend for CPUs.

Every output row, one query of one head, is a weighted sum of ``4 L P`` rows of features, four corners per sample.
``embedding_bag`` computes this sum over all levels and points together, with the channels last as in ``value``, and
writes no sampled value to memory. Row indices and weights are computed for blocks of queries that fit into the cache.

The features are copied once, onto a canvas slightly wider than the widest level, which holds all levels of all images
with zeros between them. A corner outside its level reads zeros, so that no corner needs a mask, and the four corners of
a sample have the same distances in every level.

The gradient of the features is a similar sum, over rows of the output's gradient. On a CPU it is the product with the
transposed sparse matrix of weights, which scipy computes without sorting; on other devices it is a sum over sorted
rows. There are no atomic additions, so that the result is deterministic, even on a GPU.
"""

import functools
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
import torch.nn.functional as F
from torch import Tensor

from dinor1.ops.ms_deform_attn.sampling import Sampling


class BlockSizes(NamedTuple):
    """Sizes of the blocks that are computed together, and the method; they change results only by rounding.

    Attributes:
        samples: Number of sampling points per block, in the forward pass and in the gradients of the samples.
        rows: Number of feature rows gathered together, on a GPU.
        numbers: Number of elements of the gradient of ``value`` that are summed together.
        sorted_samples: Number of sampling points that are sorted together; it bounds the memory.
        sorts: Whether the gradient of ``value`` is summed over sorted rows, instead of by scipy, which needs a CPU.
    """

    samples: int
    rows: int
    numbers: int
    sorted_samples: int
    sorts: bool


# On a CPU, intermediate arrays stay in the second-level cache. On a GPU, the sizes only bound the memory: launching a
# small operation takes longer than computing it.
CPU_BLOCKS = BlockSizes(samples=2**16, rows=2**15, numbers=2**18, sorted_samples=2**22, sorts=False)
GPU_BLOCKS = BlockSizes(samples=2**21, rows=2**20, numbers=2**24, sorted_samples=2**22, sorts=True)


class _Canvas:
    """Layout of the pixels of all levels in one table of rows ``(num_lines * line_length + 2) * H, D``.

    Levels are placed side by side in strips, as long as they fit. Two lines of zeros are above and below every strip,
    and two columns of zeros left and right of every level; the left columns of a line are at the same time the right
    columns of the line above.
    """

    def __init__(
        self,
        shapes: tuple[tuple[int, int], ...],
        batch_size: int,
        num_heads: int,
        num_points: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        # Place the levels, and count the rows of the table.
        heights, widths = zip(*shapes, strict=True)
        self.shapes, self.num_heads = shapes, num_heads
        self.line_length = max(widths) + 2
        self.corners_of_levels, self.lines_per_image = _shelves(shapes, self.line_length)
        self.rows_per_image = self.lines_per_image * self.line_length * num_heads
        num_rows = self.num_rows(batch_size)
        self.index_dtype = torch.int32 if num_rows < 2**31 else torch.int64
        # Distances in rows from the top left pixel of a sample to its top right, lower left and lower right pixels.
        self.steps = tuple(step * num_heads for step in (1, self.line_length, self.line_length + 1))

        def per_level(numbers, dtype=self.index_dtype):
            return torch.tensor(numbers, dtype=dtype, device=device)[:, None].repeat(1, num_points)

        def arange(count, step):
            return torch.arange(count, dtype=self.index_dtype, device=device) * step

        # Tabulate the sizes for every level and point, (L, P), and the first row of each level, (B, 1, H, L, P).
        self.width, self.height = per_level(widths, dtype), per_level(heights, dtype)
        self._last_column, self._last_line = per_level(widths), per_level(heights)
        first_pixels = [line * self.line_length + column for line, column in self.corners_of_levels]
        first_rows = per_level(first_pixels) * num_heads + arange(num_heads, 1)[:, None, None]
        self._first_rows = first_rows + arange(batch_size, self.rows_per_image).view(-1, 1, 1, 1, 1)
        self._outside = torch.tensor(-2, dtype=self.index_dtype, device=device)
        self._half = torch.tensor(-0.5, dtype=dtype, device=device)

    def num_rows(self, batch_size: int) -> int:
        """Number of rows of the table, including two last lines of zeros and the pixels that may be read after them."""
        return batch_size * self.rows_per_image + (2 * self.line_length + 2) * self.num_heads

    def table(self, value: Tensor, dtype: torch.dtype) -> Tensor:
        """Copy ``value (B, N, H, D)`` onto a canvas of zeros."""
        table = value.new_zeros((self.num_rows(len(value)), value.shape[-1]), dtype=dtype)
        for pixels, level in self._levels(table, value):
            pixels.copy_(level)
        return table

    def value(self, table: Tensor) -> Tensor:
        """The inverse of :meth:`table`."""
        batch_size = len(table) // self.rows_per_image
        num_keys = sum(height * width for height, width in self.shapes)
        value = table.new_empty(batch_size, num_keys, self.num_heads, table.shape[-1])
        for pixels, level in self._levels(table, value):
            level.copy_(pixels)
        return value

    def _levels(self, table: Tensor, value: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Each level ``(B, height, width, H, D)`` as a part of the table and as a part of the value."""
        layout = (len(value), self.lines_per_image, self.line_length, self.num_heads, value.shape[-1])
        canvas = table[: len(value) * self.rows_per_image].view(layout)
        levels = value.split([height * width for height, width in self.shapes], 1)
        for (height, width), (line, column), level in zip(self.shapes, self.corners_of_levels, levels, strict=True):
            yield canvas[:, line : line + height, column : column + width], level.unflatten(1, (height, width))

    def pixels(self, locations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row of each sample's top left pixel, and the distances from it to the right and downwards, in [0, 1)."""
        # Split pixel coordinates into integers and fractions.
        x = torch.addcmul(self._half, locations[..., 0], self.width)
        y = torch.addcmul(self._half, locations[..., 1], self.height)
        column, line = x.floor(), y.floor()
        # An infinite location becomes NaN here, and makes its output NaN; a huge location has distance 0.
        right, down = x.sub_(column), y.sub_(line)
        # Place NaN among the zeros, so that its gradient reaches no pixel. Clamp integers instead of floats: a huge
        # coordinate may become any integer, and its row is then inside the table.
        column, line = column.nan_to_num_(nan=-2.0), line.nan_to_num_(nan=-2.0)
        column = torch.clamp(column.to(self.index_dtype), self._outside, self._last_column)
        line = torch.clamp(line.to(self.index_dtype), self._outside, self._last_line)
        rows = torch.add(self._first_rows, column, alpha=self.num_heads).add_(line, alpha=self.steps[1])
        return rows, right, down

    def corners(self, rows: Tensor) -> Tensor:
        """Rows of the four corners of each sample, ``(B, Q, H, 4, L, P)``."""
        return torch.stack((rows, *(rows + step for step in self.steps)), 3)


def _shelves(shapes: tuple[tuple[int, int], ...], line_length: int) -> tuple[list[tuple[int, int]], int]:
    """Place the levels in strips, see :class:`_Canvas`.

    Returns:
        (line, column) of the first pixel of each level, and the number of lines up to the end of the last strip.
    """
    corners, line, column, height_of_shelf = [], 2, 2, 0
    for height, width in shapes:
        # Start a new strip if the level does not fit into the current one.
        if column + width > line_length:
            line, column, height_of_shelf = line + height_of_shelf + 2, 2, 0
        corners.append((line, column))
        column, height_of_shelf = column + width + 2, max(height_of_shelf, height)
    return corners, line + height_of_shelf


@functools.lru_cache(maxsize=64)
def _cached_canvas(*arguments) -> _Canvas:
    # Cached, because a small model would spend more time on the canvas than on its samples.
    return _Canvas(*arguments)


def _canvas_of(value: Tensor, shapes: list[tuple[int, int]], sampling: Sampling) -> _Canvas:
    batch_size, _, num_heads, _, num_points = sampling.shape
    return _cached_canvas(tuple(shapes), batch_size, num_heads, num_points, sampling.dtype, value.device)


def _corner_weights(weights: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bilinear weights times attention weights, in the order of :meth:`_Canvas.corners`."""
    lower = weights * down
    upper = weights - lower
    upper_right, lower_right = upper * right, lower * right
    return upper - upper_right, upper_right, lower - lower_right, lower_right


def default_blocks(device: torch.device) -> BlockSizes:
    """The block sizes for a device."""
    return CPU_BLOCKS if device.type == 'cpu' else GPU_BLOCKS


def _query_blocks(sampling: Sampling, num_samples: int) -> Iterator[slice]:
    batch_size, num_queries, num_heads, num_levels, num_points = sampling.shape
    size = max(1, num_samples // (batch_size * num_heads * num_levels * num_points))
    return (slice(start, min(start + size, num_queries)) for start in range(0, num_queries, size))


def forward(
    value: Tensor, shapes: list[tuple[int, int]], sampling: Sampling, blocks: BlockSizes | None = None
) -> Tensor:
    """Deformable attention of checked arguments.

    Args:
        value: ``(B, N, H, D)``.
        shapes: (height, width) of each level.
        sampling: Locations and weights.
        blocks: Sizes of the blocks that are computed together. Default: :func:`default_blocks`.

    Returns:
        ``(B, Q, H * D)`` in the dtype of ``value``.
    """
    # Return zeros if there is nothing to sum.
    blocks = blocks or default_blocks(value.device)
    batch_size, num_queries, num_heads, num_levels, num_points = sampling.shape
    channels = value.shape[-1]
    output = value.new_zeros(batch_size, num_queries, num_heads * channels)
    if output.numel() == 0 or num_points == 0:
        return output
    # Copy the features onto the canvas.
    canvas = _canvas_of(value, shapes, sampling)
    table = canvas.table(value, sampling.dtype)
    # Sum the corners of all samples, block by block.
    rows_per_output = 4 * num_levels * num_points
    for block in _query_blocks(sampling, blocks.samples):
        locations, weights = sampling.block(block)
        rows, right, down = canvas.pixels(locations)
        weights = torch.stack(_corner_weights(weights, right, down), 3)
        sums = F.embedding_bag(
            canvas.corners(rows).reshape(-1, rows_per_output),
            table,
            mode='sum',
            per_sample_weights=weights.reshape(-1, rows_per_output),
        )
        output[:, block] = sums.view(batch_size, -1, num_heads * channels)
    return output


def backward(
    grad: Tensor,
    value: Tensor,
    shapes: list[tuple[int, int]],
    sampling: Sampling,
    need_value: bool = True,
    need_sampling: bool = True,
    blocks: BlockSizes | None = None,
) -> tuple[Tensor | None, tuple[Tensor, ...] | None]:
    """Gradients of :func:`forward`.

    Args:
        grad: Gradient of the output, ``(B, Q, H * D)``.
        value: As in :func:`forward`.
        shapes: As in :func:`forward`.
        sampling: As in :func:`forward`.
        need_value: Whether the gradient of ``value`` is needed.
        need_sampling: Whether the gradients of the inputs of ``sampling`` are needed.
        blocks: As in :func:`forward`.

    Returns:
        The gradient of ``value`` and the gradients of the inputs of ``sampling``; None where not needed.
    """
    # Return zeros if there is nothing to sum.
    blocks = blocks or default_blocks(value.device)
    batch_size, num_queries, num_heads, _, num_points = sampling.shape
    channels = value.shape[-1]
    sampling_grads = sampling.empty_grads() if need_sampling else None
    if grad.numel() == 0 or num_points == 0:
        for zeros in sampling_grads or ():
            zeros.zero_()
        return torch.zeros_like(value) if need_value else None, sampling_grads
    # Allocate memory for what the gradients need.
    canvas = _canvas_of(value, shapes, sampling)
    grad = grad.to(sampling.dtype).reshape(batch_size, num_queries, num_heads, channels)
    if need_value:
        all_corners = torch.empty(_with_corners(sampling.shape), dtype=canvas.index_dtype, device=value.device)
        all_weights = grad.new_empty(_with_corners(sampling.shape))
    if need_sampling:
        table = canvas.table(value, sampling.dtype)
    # Block by block, record the corners and compute the gradients of the samples.
    for block in _query_blocks(sampling, blocks.samples):
        locations, weights = sampling.block(block)
        rows, right, down = canvas.pixels(locations)
        corners = canvas.corners(rows)
        if need_value:
            all_corners[:, block] = corners
            torch.stack(_corner_weights(weights, right, down), 3, out=all_weights[:, block])
        if sampling_grads is not None:
            products = _row_products(table, corners, grad[:, block], blocks.rows)
            grad_x, grad_y, grad_weights = _sample_grads(products, weights, right, down)
            grad_x, grad_y = grad_x.mul_(canvas.width), grad_y.mul_(canvas.height)
            sampling.store_grads(sampling_grads, block, weights, grad_x, grad_y, grad_weights)
    # Sum the gradient of the features.
    if not need_value:
        return None, sampling_grads
    if blocks.sorts:
        grad_value = _value_grad_by_sorting(grad, all_corners, all_weights, canvas, blocks)
    else:
        grad_value = _value_grad_by_scipy(grad, all_corners, all_weights, canvas)
    return grad_value.to(value.dtype), sampling_grads


def _with_corners(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Insert the axis of the four corners: ``(B, Q, H, L, P)`` -> ``(B, Q, H, 4, L, P)``."""
    return (*shape[:3], 4, *shape[3:])


def _row_products(table: Tensor, corners: Tensor, grad: Tensor, num_rows: int) -> Tensor:
    """Inner product of each corner's features with the gradient of its query and head, ``(B, Q, H, 4, L, P)``."""
    rows, grad = corners.reshape(-1, corners[0, 0, 0].numel()), grad.reshape(-1, table.shape[-1])
    if table.device.type == 'cpu':
        # Multiply two matrices at the entries of a sparse matrix only: half the time of gathered rows. Not on a GPU,
        # where a column that occurs twice in a row may not be supported.
        _silence_sparse_warning()
        starts = torch.arange(0, rows.numel() + 1, rows.shape[1], dtype=rows.dtype, device=rows.device)
        pattern = torch.sparse_csr_tensor(
            starts, rows.flatten(), table.new_zeros(rows.numel()), (len(rows), len(table)), check_invariants=False
        )
        return torch.sparse.sampled_addmm(pattern, grad, table.t(), beta=0.0).values().view(corners.shape)
    # Gather the rows of the corners, block by block.
    size = max(1, num_rows // rows.shape[1])
    products = [
        torch.bmm(table.index_select(0, part.flatten()).view(*part.shape, -1), part_grad[..., None])
        for part, part_grad in zip(rows.split(size), grad.split(size), strict=True)
    ]
    return torch.cat(products).view(corners.shape)


@functools.cache
def _silence_sparse_warning() -> None:
    """Trigger torch's one-time warning about compressed sparse tensors without showing it to the user."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        torch.sparse_csr_tensor([0, 0], [], [], (1, 1), device='cpu', check_invariants=False)


def _sample_grads(products: Tensor, weights: Tensor, right: Tensor, down: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x and y, in pixels, and of the weights, each ``(B, Q, H, L, P)``, of bilinear interpolation."""
    upper_left, upper_right, lower_left, lower_right = products.unbind(3)
    upper_dx, lower_dx = upper_right - upper_left, lower_right - lower_left
    upper = torch.addcmul(upper_left, right, upper_dx)
    dy = torch.addcmul(lower_left, right, lower_dx).sub_(upper)
    grad_weights = torch.addcmul(upper, down, dy)
    return torch.lerp(upper_dx, lower_dx, down).mul_(weights), dy.mul_(weights), grad_weights


def _value_grad_by_scipy(grad: Tensor, corners: Tensor, weights: Tensor, canvas: _Canvas) -> Tensor:
    """Sum the rows of the gradient ``(B, Q, H, D)`` into the pixels that each sample read; returns ``(B, N, H, D)``.

    The weights form a sparse matrix with a column per output row. scipy computes its product with the gradient entry by
    entry and without sorting, which torch's operators cannot do. It uses one thread and does not block others, so that
    the images are distributed over threads.
    """
    num_rows, num_columns = canvas.num_rows(1), grad[0, ..., 0].numel()
    starts = np.arange(0, corners[0].numel() + 1, corners[0, 0, 0].numel(), dtype=corners.numpy().dtype)

    def table_of(image: int) -> Tensor:
        rows = corners[image].flatten() - image * canvas.rows_per_image
        entries = (weights[image].flatten().numpy(), rows.numpy(), starts)
        matrix = scipy.sparse.csc_array(entries, shape=(num_rows, num_columns))
        return torch.from_numpy(matrix @ grad[image].reshape(num_columns, -1).numpy())

    # Compute the images in parallel.
    num_threads = min(torch.get_num_threads(), len(grad))
    if num_threads > 1:
        with ThreadPoolExecutor(num_threads) as pool:
            tables = list(pool.map(table_of, range(len(grad))))
    else:
        tables = [table_of(image) for image in range(len(grad))]
    return torch.cat([canvas.value(table) for table in tables])


def _value_grad_by_sorting(
    grad: Tensor, corners: Tensor, weights: Tensor, canvas: _Canvas, blocks: BlockSizes
) -> Tensor:
    """:func:`_value_grad_by_scipy` in torch, for GPUs: sums over sorted rows need no atomic additions."""
    rows, corner_weights = corners[:, :, :, 0], weights.movedim(3, 0)
    step = max(1, blocks.sorted_samples // rows[0].numel())
    images = []
    for first in range(0, len(grad), step):
        # Sum the gradient of some images; the method depends on the number of samples per pixel.
        part = slice(first, first + step)
        table = grad.new_zeros(canvas.num_rows(len(grad[part])), grad.shape[-1])
        part_rows = rows[part] - first * canvas.rows_per_image
        if part_rows.numel() < len(table):
            _sum_touched_rows(table, grad[part], part_rows, corner_weights[:, part], canvas)
        else:
            _sum_all_rows(table, grad[part], part_rows, corner_weights[:, part], canvas, blocks.numbers)
        images.append(canvas.value(table))
    return images[0] if len(images) == 1 else torch.cat(images)


def _sum_all_rows(
    table: Tensor, grad: Tensor, rows: Tensor, corner_weights: Tensor, canvas: _Canvas, num_numbers: int
) -> None:
    """Sum many samples per pixel: sort them by their top left pixels, once for the four corners."""
    # Sort the samples, and find the range of samples of each pixel.
    channels, per_source = grad.shape[-1], rows[0, 0, 0].numel()
    rows, order = torch.sort(rows.flatten(), stable=True)
    num_sums = len(table) - canvas.steps[-1]
    offsets = F.pad(torch.bincount(rows, minlength=num_sums).cumsum(0), (1, 0))
    # Divide the pixels into blocks.
    block = max(1, num_numbers // channels)
    bounds = offsets[::block].tolist()
    if num_sums % block:
        bounds.append(len(rows))
    sources, weights = grad.reshape(-1, channels), corner_weights.flatten(1)
    for first, start, stop in zip(range(0, num_sums, block), bounds[:-1], bounds[1:], strict=True):
        # Skip blocks without samples.
        if start == stop:
            continue
        samples = order[start:stop]
        source_rows = samples // per_source
        ends = offsets[first : first + block + 1] - start
        # Add the sums of each corner at the rows of its pixels.
        for weight, shift in zip(weights, (0, *canvas.steps), strict=True):
            sums = F.embedding_bag(
                source_rows,
                sources,
                ends,
                mode='sum',
                per_sample_weights=weight.index_select(0, samples),
                include_last_offset=True,
            )
            table[first + shift : first + shift + len(sums)] += sums


def _sum_touched_rows(table: Tensor, grad: Tensor, rows: Tensor, corner_weights: Tensor, canvas: _Canvas) -> None:
    """Sum few samples: sort all their corners, and write only the rows that occur."""
    # Sort the corners of all samples by row.
    channels = grad.shape[-1]
    corners, weights = canvas.corners(rows), corner_weights.movedim(0, 3)
    per_source = corners[0, 0, 0].numel()
    corners, order = torch.sort(corners.flatten(), stable=True)
    touched, counts = torch.unique_consecutive(corners, return_counts=True)
    # Sum the samples of each row.
    sums = F.embedding_bag(
        order // per_source,
        grad.reshape(-1, channels),
        F.pad(counts.cumsum(0), (1, 0)),
        mode='sum',
        per_sample_weights=weights.flatten().index_select(0, order),
        include_last_offset=True,
    )
    table.index_copy_(0, touched.long(), sums)
