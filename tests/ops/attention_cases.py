"""Inputs of deformable attention on which every backend must agree with the reference in float64, and the comparison.

The tests use them on a CPU, for the Triton kernels in Triton's interpreter; ``tools/analysis_tools/gpu_check.py`` uses
them on a GPU. Bilinear interpolation is not differentiable at pixel centres, where the gradient of a location depends
on rounding. Samples are at least a tenth of a pixel away from pixel centres, so that every difference is a defect.
"""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from dinor1.ops.ms_deform_attn.backends import use_ms_deform_attn_backend
from dinor1.ops.ms_deform_attn.functional import ms_deform_attn, ms_deform_attn_predicted

# Largest accepted difference, relative to the largest value of the reference if that exceeds 1. Inputs in half
# precision are exact in float64 too, so that only the result is rounded, to 2**-9 (bfloat16) or 2**-12 (float16) of it.
TOLERANCES = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 1e-2}
PYRAMID = ((5, 7), (2, 3))
_BAD = {'huge': 1e30, 'nan': float('nan'), 'inf': float('inf')}


@dataclasses.dataclass(frozen=True)
class Case:
    """One set of inputs.

    Attributes:
        name: Name of the case.
        kind: ``'given'`` locations and weights, or predictions for ``'points'`` or ``'boxes'``.
        dtype: Dtype of value, predictions, locations and weights; reference points have at least float32.
        shapes: (height, width) of each level.
        batch: Number of images.
        queries: Number of queries per image.
        heads: Number of heads.
        channels: Number of channels per head.
        points: Number of points per head and level.
        special: ``'strided'`` inputs, or ``'huge'``, ``'nan'`` or ``'inf'`` as a location of the first query and head;
            empty: none of these.
        deterministic: Argument of the operator.
    """

    name: str
    kind: str = 'given'
    dtype: torch.dtype = torch.float32
    shapes: tuple[tuple[int, int], ...] = PYRAMID
    batch: int = 1
    queries: int = 3
    heads: int = 2
    channels: int = 4
    points: int = 2
    special: str = ''
    deterministic: bool = False


def all_cases() -> list[Case]:
    """Every kind in every precision; then odd sizes, one level and point, empty, strided and non-finite inputs."""
    kinds = ('given', 'points', 'boxes')
    cases = [Case(f'{kind} {str(dtype)[6:]}', kind, dtype) for kind in kinds for dtype in TOLERANCES]
    for kind in kinds:
        cases += [
            Case(
                f'{kind} odd sizes',
                kind,
                shapes=((3, 5), (1, 9), (1, 1)),
                batch=2,
                queries=11,
                heads=1,
                channels=7,
                points=3,
            ),
            Case(f'{kind} one level, one point', kind, shapes=((4, 3),), points=1, channels=1, heads=3),
            Case(f'{kind} no queries', kind, queries=0),
            Case(f'{kind} no images', kind, batch=0),
            Case(f'{kind} strided', kind, special='strided'),
            Case(f'{kind} deterministic', kind, deterministic=True, batch=2, queries=9),
            *(Case(f'{kind} {special}', kind, special=special) for special in _BAD),
        ]
    return cases


def make_inputs(
    case: Case, device: torch.device | str = 'cpu', seed: int = 0
) -> tuple[Tensor, list[int], tuple[Tensor, ...]]:
    """Value ``(B, N, H, D)``, start indices of levels, and the other tensor arguments of the operator of ``case.kind``.

    About a third of the samples of a small level are outside of it.
    """
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    def rounded(tensor: Tensor, dtype: torch.dtype = case.dtype) -> Tensor:
        return tensor.to(dtype).double()

    # Draw features, and locations that are not close to pixel centres.
    sizes = [height * width for height, width in case.shapes]
    starts = [sum(sizes[:level]) for level in range(len(sizes))]
    levels = len(sizes)
    value = rand(case.batch, sum(sizes), case.heads, case.channels) - 0.5
    per_sample = (case.batch, case.queries, case.heads, levels, case.points)
    extent = torch.tensor(case.shapes, dtype=torch.float64).flip(-1)[:, None]
    pixels = (rand(*per_sample, 2) * (extent + 3) - 2).floor() + 0.1 + 0.8 * rand(*per_sample, 2)
    locations = (pixels + 0.5) / extent
    # Add weights, or convert the locations to offsets from random reference points.
    if case.kind == 'given':
        inputs = [locations, rand(*per_sample)]
    else:
        precise = torch.float64 if case.dtype == torch.float64 else torch.float32
        dims = 2 if case.kind == 'points' else 4
        reference = rounded(rand(case.batch, case.queries, levels, dims) * 0.5 + 0.25, precise)
        here = reference[:, :, None, :, None]
        step = 1 / extent if dims == 2 else here[..., 2:] * (0.5 / case.points)
        inputs = [reference, (locations - here[..., :2]) / step, 4 * rand(*per_sample) - 2]
    # Apply special values, dtype, device and strides.
    if case.special in _BAD and locations.numel():
        inputs[-2][0, 0, 0, -1, 0] = _BAD[case.special]
    tensors = [value.to(case.dtype), *(t.to(case.dtype) for t in inputs)]
    if case.kind != 'given':
        tensors[1] = inputs[0].to(precise)
    tensors = [t.to(device) for t in tensors]
    if case.special == 'strided':
        tensors = [t.transpose(0, -1).contiguous().transpose(0, -1) for t in tensors]
    return tensors[0], starts, tuple(tensors[1:])


def run(
    case: Case, backend: str, value: Tensor, starts: Sequence[int], inputs: tuple[Tensor, ...], direction: Tensor
) -> dict[str, Tensor]:
    """Output and gradients of a backend, by name of the tensor, in float64 on the CPU."""
    leaves = [t.detach().requires_grad_() for t in (value, *inputs)]
    operator = ms_deform_attn if case.kind == 'given' else ms_deform_attn_predicted
    names = ['locations', 'weights'] if case.kind == 'given' else ['reference', 'offsets', 'logits']
    with use_ms_deform_attn_backend(backend):
        output = operator(leaves[0], case.shapes, starts, *leaves[1:], deterministic=case.deterministic)
        grads = torch.autograd.grad(output, leaves, direction.to(output.dtype))
    results = zip(('output', 'value', *names), (output.detach(), *grads), strict=True)
    return {name: tensor.double().cpu() for name, tensor in results}


def differences(case: Case, backend: str, device: torch.device | str = 'cpu') -> dict[str, float]:
    """Largest relative difference between ``backend`` and the reference in float64, for the output and each gradient.

    The reference runs on the CPU: on CUDA, ``grid_sample`` moves locations that are not finite out of the level. Where
    the output of the reference is NaN, the output must be NaN too (else the difference is infinite), and the gradient
    of the output is set to zero. The gradient of value must be finite everywhere; the other gradients are compared
    where the reference is finite.
    """
    # Compute the reference, without gradients of NaN outputs.
    value, starts, inputs = make_inputs(case)
    shape = (case.batch, case.queries, case.heads * case.channels)
    direction = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(case.dtype)
    exact = (value.double(), starts, tuple(t.double() for t in inputs))
    lost = run(case, 'reference', *exact, direction.double())['output'].isnan()
    direction = direction.masked_fill(lost, 0.0)
    expected = run(case, 'reference', *exact, direction.double())
    # Compare the backend with it.
    value, *inputs, direction = (t.to(device) for t in (value, *inputs, direction))
    got = run(case, backend, value, starts, tuple(inputs), direction)
    return {name: _difference(got[name], tensor, name) for name, tensor in expected.items()}


def _difference(got: Tensor, expected: Tensor, name: str) -> float:
    if got.shape != expected.shape:
        return float('inf')
    known = expected.isfinite()
    if name in ('output', 'value') and not torch.equal(got.isfinite(), known):
        return float('inf')
    got, expected = got[known], expected[known]
    if expected.numel() == 0:
        return 0.0
    difference = (got - expected).abs().max() / expected.abs().max().clamp(min=1)
    return float('inf') if difference.isnan() else difference.item()
