"""Time deformable attention: our backends and third-party implementations, on the workloads of a detector.

Every arm computes the attended features from reference points, offsets and logits. If an operator takes locations and
weights instead, its time includes computing them.
"""

import dataclasses
import functools
import importlib.util
import time
from collections.abc import Callable

import torch
from torch import Tensor

from dinor1.benchmarks.timing import ratio, take_turns, timed
from dinor1.ops import ms_deform_attn, ms_deform_attn_predicted, use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.backends import why_not_triton
from dinor1.ops.ms_deform_attn.reference import ms_deform_attn_reference, sampling_from_offsets
from dinor1.utils.compat import has_mmcv_operators
from dinor1.utils.precision import compute_dtype

# (height, width) of the levels for 800 x 1333 pixels at strides 8 to 64, and for nano's 128 pixels at strides 8 to 32.
_FULL = ((100, 167), (50, 84), (25, 42), (13, 21))
_NANO = ((16, 16), (8, 8), (4, 4))
BASELINE = 'reference'


@dataclasses.dataclass(frozen=True)
class Workload:
    """Sizes of one call.

    Attributes:
        shapes: (height, width) of each level.
        queries: Number of queries per image; 0: one per pixel of all levels, as in an encoder.
        heads: Number of attention heads.
        channels: Channels of each head.
        points: Sampling points per head and level.
    """

    shapes: tuple[tuple[int, int], ...]
    queries: int = 0
    heads: int = 8
    channels: int = 32
    points: int = 4

    @property
    def num_keys(self) -> int:
        """Number of pixels of all levels."""
        return sum(height * width for height, width in self.shapes)

    @property
    def num_queries(self) -> int:
        """Number of queries per image."""
        return self.queries or self.num_keys


WORKLOADS = {
    'encoder': Workload(_FULL),
    'decoder': Workload(_FULL, queries=900),
    'nano-encoder': Workload(_NANO, heads=4, channels=16),
    'nano-decoder': Workload(_NANO, queries=40, heads=4, channels=16),
}


@dataclasses.dataclass
class Call:
    """Arguments of one call.

    Attributes:
        value: (B, N, H, D) features of all levels.
        shapes: (height, width) of each level.
        shape_tensor: (L, 2), ``shapes`` as a tensor.
        start_tensor: (L,) index of the first feature of each level.
        predictions: Reference points (B, Q, L, 2), offsets (B, Q, H, L, P, 2) in pixels, and logits (B, Q, H, L, P).
    """

    value: Tensor
    shapes: tuple[tuple[int, int], ...]
    shape_tensor: Tensor
    start_tensor: Tensor
    predictions: tuple[Tensor, Tensor, Tensor]

    def given(self) -> tuple[Tensor, Tensor]:
        """Locations and weights, for an operator that takes them; weights have the dtype of ``value``."""
        dtype = compute_dtype(self.value, *self.predictions)
        locations, weights = sampling_from_offsets(list(self.shapes), *self.predictions, dtype=dtype)
        return locations, weights.to(self.value.dtype)


def make_call(workload: Workload, batch: int, dtype: torch.dtype, device: str) -> Call:
    """Draw the arguments of a call; every query samples around a pixel, with a standard deviation of three pixels."""
    # Choose reference points evenly among the pixels of all levels.
    generator = torch.Generator().manual_seed(0)
    centres = [
        torch.cartesian_prod((torch.arange(height) + 0.5) / height, (torch.arange(width) + 0.5) / width).flip(-1)
        for height, width in workload.shapes
    ]
    chosen = torch.linspace(0, workload.num_keys - 1, workload.num_queries).round().long()
    levels, per_query = len(workload.shapes), (batch, workload.num_queries, workload.heads)
    reference = torch.cat(centres)[chosen][None, :, None].expand(batch, -1, levels, -1)
    # Draw offsets, logits and features.
    offsets = 3 * torch.randn(*per_query, levels, workload.points, 2, generator=generator)
    logits = torch.randn(*per_query, levels, workload.points, generator=generator)
    value = torch.randn(batch, workload.num_keys, workload.heads, workload.channels, generator=generator)
    sizes = [height * width for height, width in workload.shapes]
    starts = [sum(sizes[:level]) for level in range(levels)]
    return Call(
        value.to(device, dtype),
        workload.shapes,
        torch.tensor(workload.shapes, device=device),
        torch.tensor(starts, device=device),
        (reference.contiguous().to(device), offsets.to(device, dtype), logits.to(device, dtype)),
    )


def _backend(name: str, call: Call) -> Tensor:
    with use_ms_deform_attn_backend(name):
        return ms_deform_attn_predicted(call.value, call.shape_tensor, call.start_tensor, *call.predictions)


def _backend_given(name: str, call: Call) -> Tensor:
    with use_ms_deform_attn_backend(name):
        return ms_deform_attn(call.value, call.shape_tensor, call.start_tensor, *call.given())


@functools.cache
def _compiled_reference() -> Callable[..., Tensor]:
    def function(value: Tensor, shapes: list, *predictions: Tensor) -> Tensor:
        dtype = compute_dtype(value, *predictions)
        return ms_deform_attn_reference(value, shapes, *sampling_from_offsets(shapes, *predictions, dtype=dtype))

    return torch.compile(function, dynamic=False)


def _mmcv(call: Call) -> Tensor:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    return MultiScaleDeformableAttnFunction.apply(call.value, call.shape_tensor, call.start_tensor, *call.given(), 64)


def _msda_triton(call: Call) -> Tensor:
    # Call the kernel directly: the usual entry point falls back to grid_sample without a message if the kernel fails.
    from msda_triton.frontend import triton_multiscale_deformable_attention

    locations, weights = call.given()
    shared = (call.value, call.shape_tensor, locations.to(call.value.dtype), weights)
    return triton_multiscale_deformable_attention(*shared, padding_mode='zeros', align_corners=False).flatten(2)


def _deformops(call: Call) -> Tensor:
    from deformops.registry import msda

    locations, weights = call.given()
    # Let the package choose the kernel; on a GPU it is one of its Triton kernels.
    return msda(call.value, call.shape_tensor, call.start_tensor, locations, weights.flatten(3))


# Name of a package -> third-party GPU kernel. These packages are not dependencies of dinor1.
THIRD_PARTY: dict[str, Callable[[Call], Tensor]] = {'msda_triton': _msda_triton, 'deformops': _deformops}


def not_measured(device: str) -> dict[str, str]:
    """Name -> reason of the implementations that :func:`arms` leaves out on this machine."""
    if device != 'cuda':
        return dict.fromkeys(('triton', 'mmcv', *THIRD_PARTY), 'needs a GPU')
    reasons = {'triton': why_not_triton(device), 'mmcv': '' if has_mmcv_operators() else 'MMCV has no operators here'}
    reasons |= {name: '' if importlib.util.find_spec(name) else 'not installed' for name in THIRD_PARTY}
    return {name: reason for name, reason in reasons.items() if reason}


def arms(device: str, with_compile: bool) -> dict[str, Callable[[Call], Tensor]]:
    """Name -> implementation that can run on this machine; third-party implementations if they are installed."""
    # Collect the implementations by device and installed packages.
    made = {name: functools.partial(_backend, name) for name in (BASELINE, 'embedding_bag')}
    if device == 'cuda':
        if not why_not_triton(device):
            made['triton'] = functools.partial(_backend, 'triton')
            made['triton, weights given'] = functools.partial(_backend_given, 'triton')
        if has_mmcv_operators():
            made['mmcv'] = _mmcv
        made.update({name: arm for name, arm in THIRD_PARTY.items() if importlib.util.find_spec(name) is not None})
    else:
        made['embedding_bag, weights given'] = functools.partial(_backend_given, 'embedding_bag')
    if with_compile:
        made['reference, compiled'] = lambda call: _compiled_reference()(
            call.value, list(call.shapes), *call.predictions
        )
    return made


def forward_step(arm: Callable[[Call], Tensor], call: Call) -> Callable[[], object]:
    """Return a function that runs the forward pass without gradients."""

    def step() -> Tensor:
        with torch.no_grad():
            return arm(call)

    return step


def training_step(arm: Callable[[Call], Tensor], call: Call) -> Callable[[], object]:
    """Return a function that runs forward and backward pass; reference points are constants, as in an encoder."""
    leaves = [t.detach().requires_grad_() for t in (call.value, *call.predictions[1:])]
    mine = dataclasses.replace(call, value=leaves[0], predictions=(call.predictions[0], *leaves[1:]))
    direction = torch.ones(call.value.shape[0], leaves[1].shape[1], call.value[0, 0].numel()).to(call.value)
    return lambda: torch.autograd.grad(arm(mine), leaves, direction)


PASSES = {'forward': forward_step, 'forward + backward': training_step}


def least_work(workload: Workload, batch: int, dtype: torch.dtype) -> dict[str, float]:
    """Least work of a forward pass: operations, bytes that must move once, and bytes of features that samples read."""
    samples = batch * workload.num_queries * workload.heads * len(workload.shapes) * workload.points
    pixels = batch * (workload.num_keys + workload.num_queries) * workload.heads * workload.channels
    return dict(
        samples=samples,
        # Per sample, four products and sums per channel, and about 30 for location, softmax and bilinear weights.
        operations=samples * (8 * workload.channels + 30),
        bytes_once=(pixels + 3 * samples) * dtype.itemsize,
        bytes_gathered=4 * samples * workload.channels * dtype.itemsize,
    )


def ceilings(workload: Workload, dtype: torch.dtype, device: str, clock: str = 'wall') -> dict[str, float]:
    """Measure bytes per second of copying a large array, and of gathering rows of features near each other."""
    # Copy a large array.
    large = torch.ones(2**26 if device == 'cuda' else 2**23, device=device)
    target = torch.empty_like(large)
    copied = min(timed(lambda: target.copy_(large), device, clock).times)
    # Gather rows. Sums of 64 rows, as many as the operator reads for a query and head, write little.
    table = torch.ones(workload.num_keys * workload.heads, workload.channels, device=device, dtype=dtype)
    near = torch.arange(2**17, device=device) % len(table)
    near = (near + torch.randint(-2048, 2048, near.shape, device=device)).clamp_(0, len(table) - 1)
    bags = near.view(-1, 64)
    read = min(timed(lambda: torch.nn.functional.embedding_bag(bags, table, mode='sum'), device, clock).times)
    fetched = near.numel() * table[0].numel() * dtype.itemsize
    return dict(copy=2 * 4 * large.numel() / copied, gather=fetched / read)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Settings of a measurement.

    Attributes:
        device: ``cpu`` or ``cuda``.
        rounds: Timed rounds of every arm; the arms alternate.
        clock: See :func:`dinor1.benchmarks.timing.timed`.
        calls_per_round: Calls between two readings of the clock, so that the launch overhead does not count.
        deadline: Value of ``time.monotonic()`` after which no other arm and no other round begins.
    """

    device: str
    rounds: int
    clock: str = 'wall'
    calls_per_round: int = 1
    deadline: float = float('inf')


def measure(
    workload: Workload,
    batch: int,
    dtype: torch.dtype,
    kind: str,
    implementations: dict[str, Callable[[Call], Tensor]],
    timing: Timing,
) -> list[dict]:
    """Measure all arms; returns one row per arm with milliseconds, relative time, peak MiB on a GPU, or an error.

    Args:
        workload: Sizes of a call.
        batch: Number of images.
        dtype: Dtype of features and predictions.
        kind: A key of :data:`PASSES`.
        implementations: Arms, as :func:`arms` returns them.
        timing: Settings of the measurement.
    """
    # Run every arm once, to compile it and to find the arms that cannot run.
    call = make_call(workload, batch, dtype, timing.device)
    steps, rows = {}, {}
    for name, arm in implementations.items():
        rows[name] = dict(arm=name)
        if time.monotonic() > timing.deadline:
            rows[name]['error'] = 'no time left'
            continue
        step = PASSES[kind](arm, call)
        try:
            rows[name].update(_peak(step, timing.device))
        except Exception as error:  # a failed arm, for example in a compiler, is a row of the table
            rows[name]['error'] = f'{type(error).__name__}: {str(error).strip()[:120]}'.replace('\n', ' ')
            continue
        steps[name] = step

    # Time the other arms alternately.
    measured = take_turns(
        steps,
        timing.rounds,
        timing.device,
        timing.clock,
        deadline=timing.deadline,
        calls=timing.calls_per_round,
    )
    for name, one in measured.items():
        rows[name].update(
            milliseconds=1e3 * one.median,
            fastest=1e3 * min(one.times),
            relative=ratio(one.times, measured[BASELINE].times) if BASELINE in measured else None,
        )
    return list(rows.values())


def _peak(step: Callable[[], object], device: str) -> dict[str, float]:
    """Run once to compile; on a GPU, run again and measure the peak memory."""
    # Compile, and allocate what stays in memory.
    step()
    if device != 'cuda':
        return {}
    # Measure the second run.
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return dict(peak_mib=(torch.cuda.max_memory_allocated() - before) / 2**20)
