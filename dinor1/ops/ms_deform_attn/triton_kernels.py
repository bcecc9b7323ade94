"""Triton kernels of deformable attention: one program per block of queries, head and image.

A program keeps its tile of the output, ``(BLOCK_Q, BLOCK_D)``, in registers and loops over levels and points; no
intermediate result is written to memory. Arithmetic and sums are in ``ACC``, float32 or float64, for tensors of any
dtype. With ``PREDICTED``, ``sampling`` and ``attention`` are offsets and logits, and the kernels compute softmax and
locations; otherwise they are locations and weights, and ``reference`` is not read.

All tensors are contiguous: value ``(B, N, H, D)``, reference ``(B, Q, L, REFERENCE_DIM)``, sampling
``(B, Q, H, L, P, 2)``, attention ``(B, Q, H, L, P)``, output ``(B, Q, H, D)``. No access is out of bounds, for any
values of locations and levels.
"""

import triton
import triton.language as tl


@triton.jit
def _program_block(num_queries, CHANNELS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr):
    """Image and head of this program, its queries, numbered over the batch, and its channels, with their masks."""
    head, image = tl.program_id(1), tl.program_id(2).to(tl.int64)
    queries = tl.program_id(0) * BLOCK_Q + tl.arange(0, BLOCK_Q)
    channels = tl.arange(0, BLOCK_D)
    return image, head, image * num_queries + queries, queries < num_queries, channels, channels < CHANNELS


@triton.jit
def _load_level(spatial_shapes, level_start_index, level):
    """Height, width and start of a level."""
    height = tl.load(spatial_shapes + 2 * level).to(tl.int32)
    width = tl.load(spatial_shapes + 2 * level + 1).to(tl.int32)
    return height, width, tl.load(level_start_index + level).to(tl.int32)


@triton.jit
def _load_pair(pointer, query_mask, ACC: tl.constexpr):
    """Load two consecutive numbers per query: x and y, or width and height."""
    x = tl.load(pointer, mask=query_mask, other=0.0).to(ACC)
    y = tl.load(pointer + 1, mask=query_mask, other=0.0).to(ACC)
    return x, y


@triton.jit
def _softmax_terms(
    attention,
    first_sample,
    query_mask,
    PREDICTED: tl.constexpr,
    NUM_SAMPLES: tl.constexpr,
    BLOCK_S: tl.constexpr,
    ACC: tl.constexpr,
):
    """Maximum of the logits and sum of their exponentials per query; unused if weights are given."""
    if PREDICTED:
        samples = tl.arange(0, BLOCK_S)
        mask = query_mask[:, None] & (samples[None, :] < NUM_SAMPLES)
        logits = tl.load(attention + first_sample[:, None] + samples[None, :], mask=mask, other=-float('inf')).to(ACC)
        # Rows after the last query would otherwise subtract infinity from infinity.
        maximum = tl.where(query_mask, tl.max(logits, 1), 0.0)
        total = tl.where(query_mask, tl.sum(tl.exp(logits - maximum[:, None]), 1), 1.0)
    else:
        maximum, total = 0.0, 1.0
    return maximum, total


@triton.jit
def _pixel_coordinates(
    sampling_x,
    sampling_y,
    reference,
    width,
    height,
    query_mask,
    PREDICTED: tl.constexpr,
    REFERENCE_DIM: tl.constexpr,
    BOX_STEP: tl.constexpr,
    ACC: tl.constexpr,
):
    """Coordinates in pixels, and for boxes the factors that convert offsets to fractions of the level."""
    # The centre of pixel i is at (i + 0.5) / width, hence the difference of 0.5.
    step_x, step_y = sampling_x, sampling_y
    if PREDICTED:
        # Offsets are pixels from a reference point, or parts of a reference box.
        centre_x, centre_y = _load_pair(reference, query_mask, ACC)
        if REFERENCE_DIM == 2:
            x = centre_x * width + sampling_x - 0.5
            y = centre_y * height + sampling_y - 0.5
        else:
            box_width, box_height = _load_pair(reference + 2, query_mask, ACC)
            step_x, step_y = box_width * BOX_STEP, box_height * BOX_STEP
            x = (centre_x + sampling_x * step_x) * width - 0.5
            y = (centre_y + sampling_y * step_y) * height - 0.5
    else:
        x = sampling_x * width - 0.5
        y = sampling_y * height - 0.5
    return x, y, step_x, step_y


@triton.jit
def _top_left(coordinate, size):
    """Index of the pixel before a coordinate, or -2 if both pixels around it are outside; and the distance from it."""
    low = tl.floor(coordinate)
    # An infinite coordinate has distance NaN, which makes its output NaN; a huge coordinate has distance 0.
    reached = (low >= -1.0) & (low < size)
    return tl.where(reached, low, -2.0).to(tl.int32), coordinate - low


@triton.jit
def _load_sample(
    sampling,
    attention,
    reference,
    sample,
    width,
    height,
    query_mask,
    logit_maximum,
    exp_total,
    PREDICTED: tl.constexpr,
    REFERENCE_DIM: tl.constexpr,
    BOX_STEP: tl.constexpr,
    ACC: tl.constexpr,
):
    """Weight of a sample, its top left pixel, the distances from this pixel, and further values for the gradients.

    ``reference`` points to the reference point or box of each query in this level.
    """
    # Load location and weight, or compute the weight from the logit.
    sampling_x, sampling_y = _load_pair(sampling + 2 * sample, query_mask, ACC)
    weight = tl.load(attention + sample, mask=query_mask, other=0.0).to(ACC)
    if PREDICTED:
        weight = tl.exp(weight - logit_maximum) / exp_total
    # Find the pixels around the location.
    x, y, step_x, step_y = _pixel_coordinates(
        sampling_x, sampling_y, reference, width, height, query_mask, PREDICTED, REFERENCE_DIM, BOX_STEP, ACC
    )
    column, right = _top_left(x, width)
    line, down = _top_left(y, height)
    return weight, column, line, right, down, sampling_x, sampling_y, step_x, step_y


@triton.jit
def _corner(
    column,
    line,
    right,
    down,
    width,
    height,
    start,
    num_keys,
    query_mask,
    row_stride,
    DX: tl.constexpr,
    DY: tl.constexpr,
):
    """One of the four pixels around a sample.

    Returns:
        Offset of the pixel's features, whether the pixel is in its level (and in memory, even if the levels are wrong),
        and its bilinear weights in x and y.
    """
    column, line = column + DX, line + DY
    position = start + line * width + column
    inside = (column >= 0) & (column < width) & (line >= 0) & (line < height)
    inside = inside & (position >= 0) & (position < num_keys) & query_mask
    return position * row_stride, inside, right if DX else 1.0 - right, down if DY else 1.0 - down


@triton.jit
def forward_kernel(
    value,
    spatial_shapes,
    level_start_index,
    reference,
    sampling,
    attention,
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
    """Write ``output``."""
    # Locate the queries, samples and features of this program.
    image, head, query, query_mask, channels, channel_mask = _program_block(num_queries, CHANNELS, BLOCK_Q, BLOCK_D)
    row_stride = NUM_HEADS * CHANNELS
    first_sample = (query * NUM_HEADS + head) * (NUM_LEVELS * NUM_POINTS)
    features = value + (image * num_keys * NUM_HEADS + head) * CHANNELS + channels[None, :]
    logit_maximum, exp_total = _softmax_terms(
        attention, first_sample, query_mask, PREDICTED, NUM_LEVELS * NUM_POINTS, BLOCK_S, ACC
    )

    # Add the samples of all levels and points.
    result = tl.zeros((BLOCK_Q, BLOCK_D), dtype=ACC)
    for level in range(NUM_LEVELS):
        height, width, start = _load_level(spatial_shapes, level_start_index, level)
        level_reference = reference + (query * NUM_LEVELS + level) * REFERENCE_DIM
        for point in range(NUM_POINTS):
            weight, column, line, right, down, _, _, _, _ = _load_sample(
                sampling,
                attention,
                level_reference,
                first_sample + level * NUM_POINTS + point,
                width,
                height,
                query_mask,
                logit_maximum,
                exp_total,
                PREDICTED,
                REFERENCE_DIM,
                BOX_STEP,
                ACC,
            )
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    offset, inside, weight_x, weight_y = _corner(
                        column, line, right, down, width, height, start, num_keys, query_mask, row_stride, dx, dy
                    )
                    corner_weight = weight * weight_x * weight_y
                    mask = inside[:, None] & channel_mask[None, :]
                    pixel = tl.load(features + offset[:, None], mask=mask, other=0.0).to(ACC)
                    result += corner_weight[:, None] * pixel
    # Write the tile of the output.
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
    sampling,
    attention,
    grad_value,
    grad_reference,
    grad_sampling,
    grad_attention,
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
    """Compute the gradients.

    ``grad_value`` holds zeros in ACC; ``grad_reference`` is ``(B, Q, H, L, REFERENCE_DIM)`` in ACC.
    """
    # Locate the queries, samples and features of this program, and load the gradient of its outputs.
    image, head, query, query_mask, channels, channel_mask = _program_block(num_queries, CHANNELS, BLOCK_Q, BLOCK_D)
    row_stride = NUM_HEADS * CHANNELS
    first_sample = (query * NUM_HEADS + head) * (NUM_LEVELS * NUM_POINTS)
    first_feature = (image * num_keys * NUM_HEADS + head) * CHANNELS + channels[None, :]
    row = (query[:, None] * NUM_HEADS + head) * CHANNELS + channels[None, :]
    row_mask = query_mask[:, None] & channel_mask[None, :]
    grad_row = tl.load(grad + row, mask=row_mask, other=0.0).to(ACC)
    logit_maximum, exp_total = _softmax_terms(
        attention, first_sample, query_mask, PREDICTED, NUM_LEVELS * NUM_POINTS, BLOCK_S, ACC
    )
    if PREDICTED:
        # The derivative of the softmax needs the mean gradient of its weights, the product of output and gradient.
        mean = tl.sum(tl.load(output + row, mask=row_mask, other=0.0).to(ACC) * grad_row, 1)

    for level in range(NUM_LEVELS):
        height, width, start = _load_level(spatial_shapes, level_start_index, level)
        level_reference = reference + (query * NUM_LEVELS + level) * REFERENCE_DIM
        grad_centre_x = tl.zeros((BLOCK_Q,), dtype=ACC)
        grad_centre_y = tl.zeros((BLOCK_Q,), dtype=ACC)
        grad_width = tl.zeros((BLOCK_Q,), dtype=ACC)
        grad_height = tl.zeros((BLOCK_Q,), dtype=ACC)
        for point in range(NUM_POINTS):
            sample = first_sample + level * NUM_POINTS + point
            weight, column, line, right, down, sampling_x, sampling_y, step_x, step_y = _load_sample(
                sampling,
                attention,
                level_reference,
                sample,
                width,
                height,
                query_mask,
                logit_maximum,
                exp_total,
                PREDICTED,
                REFERENCE_DIM,
                BOX_STEP,
                ACC,
            )
            # Sum the gradients over the four pixels around the sample.
            grad_weight = tl.zeros((BLOCK_Q,), dtype=ACC)
            grad_x = tl.zeros((BLOCK_Q,), dtype=ACC)
            grad_y = tl.zeros((BLOCK_Q,), dtype=ACC)
            for dy in tl.static_range(2):
                for dx in tl.static_range(2):
                    offset, inside, weight_x, weight_y = _corner(
                        column, line, right, down, width, height, start, num_keys, query_mask, row_stride, dx, dy
                    )
                    feature = first_feature + offset[:, None]
                    mask = inside[:, None] & channel_mask[None, :]
                    if NEED_VALUE:
                        corner_weight = weight * weight_x * weight_y
                        tl.atomic_add(grad_value + feature, corner_weight[:, None] * grad_row, mask=mask, sem='relaxed')
                    if NEED_SAMPLING or NEED_REFERENCE:
                        pixel = tl.load(value + feature, mask=mask, other=0.0).to(ACC)
                        product = tl.sum(pixel * grad_row, 1)
                        grad_weight += weight_x * weight_y * product
                        grad_x += (weight_y if dx else -weight_y) * product
                        grad_y += (weight_x if dy else -weight_x) * product
            # Convert them to gradients of the inputs.
            if NEED_SAMPLING or NEED_REFERENCE:
                grad_x *= weight * width
                grad_y *= weight * height
                if PREDICTED:
                    grad_weight = weight * (grad_weight - mean)
                    grad_centre_x += grad_x
                    grad_centre_y += grad_y
                    if REFERENCE_DIM == 2:
                        grad_x /= width
                        grad_y /= height
                    else:
                        grad_width += grad_x * sampling_x * BOX_STEP
                        grad_height += grad_y * sampling_y * BOX_STEP
                        grad_x *= step_x
                        grad_y *= step_y
            # Write the gradients of the sample.
            if NEED_SAMPLING:
                tl.store(grad_sampling + 2 * sample, grad_x, mask=query_mask)
                tl.store(grad_sampling + 2 * sample + 1, grad_y, mask=query_mask)
                tl.store(grad_attention + sample, grad_weight, mask=query_mask)
        # Write the gradients of the reference point or box in this level.
        if NEED_REFERENCE:
            target = grad_reference + ((query * NUM_HEADS + head) * NUM_LEVELS + level) * REFERENCE_DIM
            tl.store(target, grad_centre_x, mask=query_mask)
            tl.store(target + 1, grad_centre_y, mask=query_mask)
            if REFERENCE_DIM == 4:
                tl.store(target + 2, grad_width, mask=query_mask)
                tl.store(target + 3, grad_height, mask=query_mask)
