"""The Triton kernels without a GPU: results in the interpreter, and compilation for a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('triton', reason='Triton is optional')


def test_kernels_pass_in_the_interpreter(repo):
    """In a separate process, because the interpreter applies to a whole process."""
    environment = os.environ | {'TRITON_INTERPRET': '1'}
    command = [sys.executable, '-m', 'pytest', '--noconftest', '-W', 'ignore::RuntimeWarning', '-x']
    file = Path(__file__).with_name('triton_cases.py')
    outcome = subprocess.run(
        [*command, str(file)], cwd=repo, env=environment, capture_output=True, text=True, check=False
    )
    assert outcome.returncode == 0, outcome.stdout[-3000:]
    assert ' passed' in outcome.stdout
    assert 'skipped' not in outcome.stdout


def test_package_import_does_not_import_triton():
    code = (
        'import sys, dinor1.ops; assert not {"triton", "dinor1.ops.ms_deform_attn.triton_kernels"} & set(sys.modules)'
    )
    subprocess.run([sys.executable, '-c', code], check=True)


@pytest.mark.parametrize('kind', ['given', 'points', 'boxes'])
@pytest.mark.parametrize('dtype', ['bf16', 'fp32'])
def test_kernels_compile_for_hopper(kind, dtype):
    """The compiler rejects more than the interpreter; it includes an assembler and needs no GPU."""
    import triton
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from dinor1.ops.ms_deform_attn.triton_kernels import backward_kernel, forward_kernel
    from dinor1.ops.ms_deform_attn.triton_launch import launch_options

    of_dtype = ['value', 'sampling', 'attention', 'output', 'grad', 'grad_sampling', 'grad_attention']
    pointers = dict.fromkeys(of_dtype, f'*{dtype}')
    pointers |= dict(reference='*fp32', grad_reference='*fp32', grad_value='*fp32')
    pointers |= dict(spatial_shapes='*i64', level_start_index='*i64')
    options = launch_options(32, torch.float32)
    constants = dict(
        NUM_HEADS=8,
        CHANNELS=32,
        NUM_LEVELS=4,
        NUM_POINTS=4,
        PREDICTED=kind != 'given',
        REFERENCE_DIM=4 if kind == 'boxes' else 2,
        BOX_STEP=0.125,
        NEED_VALUE=True,
        NEED_SAMPLING=True,
        NEED_REFERENCE=kind != 'given',
        ACC=tl.float32,
        BLOCK_Q=options['BLOCK_Q'],
        BLOCK_D=32,
        BLOCK_S=16,
    )
    for kernel in (forward_kernel, backward_kernel):
        names = kernel.arg_names
        signature = {name: 'constexpr' if name in constants else pointers.get(name, 'i32') for name in names}
        given = {(i,): constants[name] for i, name in enumerate(names) if name in constants}
        # Mark pointers as aligned, as torch's tensors are in a launch.
        aligned = {(i,): [['tt.divisibility', 16]] for i, name in enumerate(names) if name in pointers}
        source = ASTSource(fn=kernel, signature=signature, constexprs=given, attrs=aligned)
        compiled = triton.compile(
            source, target=GPUTarget('cuda', 90, 32), options=dict(num_warps=options['num_warps'])
        )
        assert len(compiled.asm['cubin']) > 1000
        # Several queries add to the gradient of the same pixel, which needs atomic additions.
        sums = re.search(r'\b(red|atom)\.', compiled.asm['ptx'])
        assert (sums is not None) == ('backward' in kernel.__name__)
