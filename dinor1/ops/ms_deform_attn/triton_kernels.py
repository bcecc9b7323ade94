"""Triton kernels of deformable attention: one program per block of queries, head and image.

A program keeps its tile of the output, ``(BLOCK_Q, BLOCK_D)``, in registers and walks over levels and points; nothing
between the inputs and the output is written to memory. Arithmetic and sums are in ``ACC``, float32 or float64, whatever
the tensors hold. With ``PREDICTED``, ``first`` and ``second`` are offsets and logits, and the softmax and the locations
are computed here; otherwise they are locations and weights, and ``reference`` is not read.

Everything is contiguous: value ``(B, N, H, D)``, reference ``(B, Q, L, REFERENCE_DIM)``, first ``(B, Q, H, L, P, 2)``,
second ``(B, Q, H, L, P)``, output ``(B, Q, H, D)``. No access is out of bounds, whatever locations and levels hold.
"""

import triton
import triton.language as tl


@triton.jit
def _softmax_terms(
    second, first_sample, query_mask, NUM_SAMPLES: tl.constexpr, BLOCK_S: tl.constexpr, ACC: tl.constexpr
):
    """Maximum of the logits and sum of their exponentials per query."""
    samples = tl.arange(0, BLOCK_S)
    mask = query_mask[:, None] & (samples[None, :] < NUM_SAMPLES)
    logits = tl.load(second + first_sample[:, None] + samples[None, :], mask=mask, other=-float('inf')).to(ACC)
    # A query behind the last one would otherwise subtract infinity from infinity.
    peak = tl.where(query_mask, tl.max(logits, 1), 0.0)
    return peak, tl.where(query_mask, tl.sum(tl.exp(logits - peak[:, None]), 1), 1.0)


@triton.jit
def _pixel_coordinates(
    first_x,
    first_y,
    reference,
    query_level,
    width,
    height,
    query_mask,
    PREDICTED: tl.constexpr,
    REFERENCE_DIM: tl.constexpr,
    BOX_STEP: tl.constexpr,
    ACC: tl.constexpr,
):
    """Coordinates in pixels, and the factor from offsets to fractions of the level (of boxes only)."""
    step_x, step_y = first_x, first_y
    if PREDICTED:
        here = reference + query_level * REFERENCE_DIM
        centre_x = tl.load(here, mask=query_mask, other=0.0).to(ACC)
        centre_y = tl.load(here + 1, mask=query_mask, other=0.0).to(ACC)
        if REFERENCE_DIM == 2:
            x = centre_x * width + first_x - 0.5
            y = centre_y * height + first_y - 0.5
        else:
            step_x = tl.load(here + 2, mask=query_mask, other=0.0).to(ACC) * BOX_STEP
            step_y = tl.load(here + 3, mask=query_mask, other=0.0).to(ACC) * BOX_STEP
            x = (centre_x + first_x * step_x) * width - 0.5
            y = (centre_y + first_y * step_y) * height - 0.5
    else:
        x = first_x * width - 0.5
        y = first_y * height - 0.5
    return x, y, step_x, step_y


@triton.jit
def _top_left(coordinate, size):
    """Index of the pixel before a coordinate, -2 if none of the two around it is in the level; distance from it."""
    low = tl.floor(coordinate)
    # An infinite coordinate has distance NaN and makes its output NaN; a huge one has distance 0.
    reached = (low >= -1.0) & (low < size)
    return tl.where(reached, low, -2.0).to(tl.int32), coordinate - low


@triton.jit
def _corner(column, line, width, height, start, num_keys, query_mask, row_stride):
    """Offset of a pixel's features, and whether it is in its level (and in memory, should the levels be wrong)."""
    position = start + line * width + column
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    inside = inside & (position >= 0) & (position < num_keys) & query_mask
    return position * row_stride, inside


@triton.jit
def forward_kernel(
    value,
    spatial_shapes,
    level_start_index,
    reference,
    first,
    second,
    output,
    num_queries,
    num_keys,
    NUM_HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    PREDICTED: tl.constexpr,
    REFERENCE_DIM: tl.constexpr,
    BOX_STEP: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channels = tl.arange(0, BLOCK_D)
    query_mask, channel_mask = queries < num_queries, channels < CHANNELS
    query = image * num_queries + queries
    row_stride = NUM_HEADS * CHANNELS
    first_sample = (query * NUM_HEADS + head) * (NUM_LEVELS * NUM_POINTS)
    features = value + (image * num_keys * NUM_HEADS + head) * CHANNELS + channels[None, :]
    if PREDICTED:
        peak, total = _softmax_terms(second, first_sample, query_mask, NUM_LEVELS * NUM_POINTS, BLOCK_S, ACC)

    result = tl.zeros((BLOCK_Q, BLOCK_D), dtype=ACC)
    for level in range(NUM_LEVELS):
        height = tl.load(spatial_shapes + 2 * level).to(tl.int32)
        width = tl.load(spatial_shapes + 2 * level + 1).to(tl.int32)
        start = tl.load(level_start_index + level).to(tl.int32)
        for point in range(NUM_POINTS):
            sample = first_sample + level * NUM_POINTS + point
            first_x = tl.load(first + 2 * sample, mask=query_mask, other=0.0).to(ACC)
            first_y = tl.load(first + 2 * sample + 1, mask=query_mask, other=0.0).to(ACC)
            weight = tl.load(second + sample, mask=query_mask, other=0.0).to(ACC)
            if PREDICTED:
                weight = tl.exp(weight - peak) / total
            x, y, _, _ = _pixel_coordinates(
                first_x,
                first_y,
                reference,
                query * NUM_LEVELS + level,
                width,
                height,
                query_mask,
                PREDICTED,
                REFERENCE_DIM,
                BOX_STEP,
                ACC,
            )
            column, right = _top_left(x, width)
            line, down = _top_left(y, height)
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    offset, inside = _corner(
                        column + dx, line + dy, width, height, start, num_keys, query_mask, row_stride
                    )
                    share = weight * (right if dx else 1.0 - right) * (down if dy else 1.0 - down)
                    mask = inside[:, None] & channel_mask[None, :]
                    pixel = tl.load(features + offset[:, None], mask=mask, other=0.0).to(ACC)
                    result += share[:, None] * pixel
    target = output + (query[:, None] * NUM_HEADS + head) * CHANNELS + channels[None, :]
    tl.store(target, result, mask=query_mask[:, None] & channel_mask[None, :])


@triton.jit
def backward_kernel(
    grad,
    output,
    value,
    spatial_shapes,
    level_start_index,
    reference,
    first,
    second,
    grad_value,
    grad_reference,
    grad_first,
    grad_second,
    num_queries,
    num_keys,
    NUM_HEADS: tl.constexpr,
    CHANNELS: tl.constexpr,
    NUM_LEVELS: tl.constexpr,
    NUM_POINTS: tl.constexpr,
    PREDICTED: tl.constexpr,
    REFERENCE_DIM: tl.constexpr,
    BOX_STEP: tl.constexpr,
    NEED_VALUE: tl.constexpr,
    NEED_SAMPLING: tl.constexpr,
    NEED_REFERENCE: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    """Gradients. ``grad_value`` holds zeros in ACC; ``grad_reference`` is ``(B, Q, H, L, REFERENCE_DIM)`` in ACC."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channels = tl.arange(0, BLOCK_D)
    query_mask, channel_mask = queries < num_queries, channels < CHANNELS
    query = image * num_queries + queries
    row_stride = NUM_HEADS * CHANNELS
    first_sample = (query * NUM_HEADS + head) * (NUM_LEVELS * NUM_POINTS)
    first_feature = (image * num_keys * NUM_HEADS + head) * CHANNELS + channels[None, :]
    own = (query[:, None] * NUM_HEADS + head) * CHANNELS + channels[None, :]
    own_mask = query_mask[:, None] & channel_mask[None, :]
    slope = tl.load(grad + own, mask=own_mask, other=0.0).to(ACC)
    if PREDICTED:
        peak, total = _softmax_terms(second, first_sample, query_mask, NUM_LEVELS * NUM_POINTS, BLOCK_S, ACC)
        # The softmax's derivative needs the mean of its weights' gradients, which is output times gradient.
        mean = tl.sum(tl.load(output + own, mask=own_mask, other=0.0).to(ACC) * slope, 1)

    for level in range(NUM_LEVELS):
        height = tl.load(spatial_shapes + 2 * level).to(tl.int32)
        width = tl.load(spatial_shapes + 2 * level + 1).to(tl.int32)
        start = tl.load(level_start_index + level).to(tl.int32)
        centre_x = tl.zeros((BLOCK_Q,), dtype=ACC)
        centre_y = tl.zeros((BLOCK_Q,), dtype=ACC)
        size_x = tl.zeros((BLOCK_Q,), dtype=ACC)
        size_y = tl.zeros((BLOCK_Q,), dtype=ACC)
        for point in range(NUM_POINTS):
            sample = first_sample + level * NUM_POINTS + point
            first_x = tl.load(first + 2 * sample, mask=query_mask, other=0.0).to(ACC)
            first_y = tl.load(first + 2 * sample + 1, mask=query_mask, other=0.0).to(ACC)
            weight = tl.load(second + sample, mask=query_mask, other=0.0).to(ACC)
            if PREDICTED:
                weight = tl.exp(weight - peak) / total
            x, y, step_x, step_y = _pixel_coordinates(
                first_x,
                first_y,
                reference,
                query * NUM_LEVELS + level,
                width,
                height,
                query_mask,
                PREDICTED,
                REFERENCE_DIM,
                BOX_STEP,
                ACC,
            )
            column, right = _top_left(x, width)
            line, down = _top_left(y, height)
            grad_weight = tl.zeros((BLOCK_Q,), dtype=ACC)
            grad_x = tl.zeros((BLOCK_Q,), dtype=ACC)
            grad_y = tl.zeros((BLOCK_Q,), dtype=ACC)
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    offset, inside = _corner(
                        column + dx, line + dy, width, height, start, num_keys, query_mask, row_stride
                    )
                    share_x = right if dx else 1.0 - right
                    share_y = down if dy else 1.0 - down
                    place = first_feature + offset[:, None]
                    mask = inside[:, None] & channel_mask[None, :]
                    if NEED_VALUE:
                        share = weight * share_x * share_y
                        tl.atomic_add(grad_value + place, share[:, None] * slope, mask=mask, sem='relaxed')
                    if NEED_SAMPLING or NEED_REFERENCE:
                        pixel = tl.load(value + place, mask=mask, other=0.0).to(ACC)
                        product = tl.sum(pixel * slope, 1)
                        grad_weight += share_x * share_y * product
                        grad_x += (share_y if dx else -share_y) * product
                        grad_y += (share_x if dy else -share_x) * product
            if NEED_SAMPLING or NEED_REFERENCE:
                grad_x *= weight * width
                grad_y *= weight * height
                if PREDICTED:
                    grad_weight = weight * (grad_weight - mean)
                    centre_x += grad_x
                    centre_y += grad_y
                    if REFERENCE_DIM == 2:
                        grad_x /= width
                        grad_y /= height
                    else:
                        size_x += grad_x * first_x * BOX_STEP
                        size_y += grad_y * first_y * BOX_STEP
                        grad_x *= step_x
                        grad_y *= step_y
            if NEED_SAMPLING:
                tl.store(grad_first + 2 * sample, grad_x, mask=query_mask)
                tl.store(grad_first + 2 * sample + 1, grad_y, mask=query_mask)
                tl.store(grad_second + sample, grad_weight, mask=query_mask)
        if NEED_REFERENCE:
            here = grad_reference + ((query * NUM_HEADS + head) * NUM_LEVELS + level) * REFERENCE_DIM
            tl.store(here, centre_x, mask=query_mask)
            tl.store(here + 1, centre_y, mask=query_mask)
            if REFERENCE_DIM == 4:
                tl.store(here + 2, size_x, mask=query_mask)
                tl.store(here + 3, size_y, mask=query_mask)
