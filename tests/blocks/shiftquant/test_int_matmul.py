"""Integer products compared with 64-bit integers, in every memory layout that layers use."""

import itertools

import pytest
import torch

from dinor1.blocks.shiftquant import has_int_mm, int_matmul
from dinor1.blocks.shiftquant.int_matmul import exact_dtype, exact_product
from dinor1.utils.errors import InputError

needs_int_mm = pytest.mark.skipif(not has_int_mm('cpu'), reason='this torch has no int8 product on CPU')
BACKENDS = [pytest.param('int_mm', marks=needs_int_mm), 'float64']


def random_int8(*shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8)


def reference(a, b):
    """Sums of 64-bit integers."""
    return (a.long().unsqueeze(2) * b.long().unsqueeze(0)).sum(1)


@pytest.mark.parametrize('backend', BACKENDS)
@pytest.mark.parametrize('shape', [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_int_matmul_empty_matrices(backend, shape):
    rows, inner, columns = shape
    result = int_matmul(random_int8(rows, inner), random_int8(inner, columns), backend)
    assert result.dtype == torch.int32
    assert result.shape == (rows, columns)
    assert not result.any()


@pytest.mark.parametrize('backend', BACKENDS)
def test_int_matmul_every_layout_is_exact(backend):
    """Transposed, sliced and overlapping operands; for sizes of 1 torch 2.14.1 reads beyond the tensor."""
    for rows, inner, columns in itertools.product((1, 2, 5, 33), (1, 2, 3, 8), (1, 2, 5, 40)):
        pool = random_int8(rows + inner)
        lefts = [
            random_int8(rows, inner),
            random_int8(inner, rows).t(),
            random_int8(rows, 2 * inner)[:, ::2],
            random_int8(rows, 3 * inner)[:, inner : 2 * inner],
            pool.as_strided((rows, inner), (1, 1)),
        ]
        rights = [random_int8(inner, columns), random_int8(columns, inner).t(), random_int8(2 * inner, columns)[::2]]
        for a, b in itertools.product(lefts, rights):
            assert torch.equal(int_matmul(a, b, backend).long(), reference(a, b)), (a.shape, a.stride(), b.stride())


@pytest.mark.parametrize('backend', BACKENDS)
def test_int_matmul_extreme_values_do_not_wrap(backend):
    low = torch.full((2, 1000), -128, dtype=torch.int8)
    assert (int_matmul(low, low.t(), backend) == 128 * 128 * 1000).all()


@pytest.mark.parametrize(
    ('a', 'b', 'arguments', 'message'),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), {}, 'expected int8'),
        (random_int8(2, 3), random_int8(2, 3), {}, r'\(2, 3\) and torch.int8 \(2, 3\)'),
        (random_int8(3), random_int8(3, 2), {}, 'expected int8'),
        (random_int8(2, 3), random_int8(3, 2), dict(backend='cublas'), "got 'cublas'"),
        (random_int8(1, 2**17), random_int8(2**17, 1), {}, 'do not fit int32; split'),
        (random_int8(1, 8), random_int8(8, 1), dict(max_term=2**28), 'do not fit int32'),
    ],
)
def test_int_matmul_bad_operands_raise(a, b, arguments, message):
    with pytest.raises(InputError, match=message):
        int_matmul(a, b, **arguments)


@pytest.mark.parametrize('backend', ['sim', pytest.param('int8', marks=needs_int_mm)])
def test_exact_product_beyond_int32_and_float32(backend):
    """Sums of 140,000 products of 127 and -127 exceed int32; 2,000 exceed the exact whole numbers of float32."""
    for inner in (2_000, 140_001):
        a, b = torch.full((3, inner), 127, dtype=torch.int8), torch.full((inner, 2), -127, dtype=torch.int8)
        a[0, 0], a[1] = 1, 0
        result = exact_product(a, b, 127 * 127, backend).long()
        assert torch.equal(result, a.long().sum(1, keepdim=True).expand(3, 2) * -127)


def test_exact_dtype_is_cheapest_exact_format():
    assert exact_dtype(2**24 - 1) == torch.float32
    assert exact_dtype(2**24) == torch.float64
    assert int(torch.tensor(2**24 - 1, dtype=torch.float32)) == 2**24 - 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')
def test_int_matmul_cuda_pads_small_sizes():
    for rows, inner, columns in itertools.product((1, 7, 33), (1, 8, 19), (1, 9, 64)):
        a, b = random_int8(rows, inner), random_int8(columns, inner).t()
        assert torch.equal(int_matmul(a.cuda(), b.cuda()).cpu().long(), reference(a, b))
