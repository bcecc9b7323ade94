"""Which code computes deformable attention: chosen by device, or by the user.

==============  ==================================================================================
``definition``  plain torch on ``grid_sample``, any device, differentiable operation by operation
``bags``        plain torch on ``embedding_bag``, any device, one operator; the choice on a CPU, unless small
``triton``      one fused kernel per direction; the choice on a CUDA device where Triton is installed
==============  ==================================================================================

The environment variable ``DINOR1_MS_DEFORM_ATTN`` names one for the whole process, and
:func:`use_ms_deform_attn_backend` for a block of code, which wins over the variable. What was named and cannot run is
an error, never replaced.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator

import torch

# Below, the many short operations of bags take longer than the few of the definition.
_FEW_SAMPLES = 2**14

BACKENDS = ('auto', 'definition', 'bags', 'triton')
VARIABLE = 'DINOR1_MS_DEFORM_ATTN'

_logger = logging.getLogger('dinor1.ops')
# Asked once, and not in a function: torch.compile refuses to trace the question, and traces through a cache.
_HAS_TRITON = importlib.util.find_spec('triton') is not None
# One for the process, as torch's own switches are: torch.compile can guard on it, and threads of a loader need none.
_named: str | None = None
_reported: set[tuple[str, str]] = set()


@contextlib.contextmanager
def use_ms_deform_attn_backend(name: str) -> Iterator[None]:
    """Within this block, compute deformable attention by the backend ``name``, in the whole process.

    Args:
        name: ``'auto'``, ``'definition'``, ``'bags'`` or ``'triton'``.

    Raises:
        ValueError: there is no such backend.
    """
    global _named
    before = _named
    _named = _checked(name, 'the backend')
    try:
        yield
    finally:
        _named = before


def named_ms_deform_attn_backend() -> str:
    """What the user named, for this block or the process; ``'auto'`` if nothing.

    Raises:
        ValueError: there is no such backend.
    """
    return _named if _named is not None else _from_environment()


def ms_deform_attn_backend(device: torch.device | str, num_samples: int | None = None, named: str | None = None) -> str:
    """The backend that tensors on ``device`` take now: ``'definition'``, ``'bags'`` or ``'triton'``.

    Args:
        device: Of the tensors.
        num_samples: Batch size times queries, heads, levels and points, where a CPU's choice shall depend on it.
        named: What the user named when the computation began; default: what is named now.

    Raises:
        ValueError: the backend that the user named cannot run there, or does not exist.
    """
    kind = device.type if isinstance(device, torch.device) else str(device).split(':')[0]
    name = named_ms_deform_attn_backend() if named is None else named
    if name == 'auto':
        name = _automatic(kind, num_samples)
    elif name == 'triton' and (reason := why_not_triton(kind)):
        raise ValueError(f"backend 'triton' cannot run on {kind}: {reason}; name another backend or 'auto'")
    _report(name, kind)
    return name


def why_not_triton(kind: str) -> str:
    """Why Triton's kernels cannot run on this kind of device; empty if they can."""
    if not _HAS_TRITON:
        return 'the package triton is not installed'
    if kind == 'cpu' and not _interpreted():
        return 'on a CPU there is only the interpreter (TRITON_INTERPRET=1), for tests'
    if kind not in ('cpu', 'cuda'):
        return 'the kernels are made for CUDA devices'
    return ''


def _from_environment() -> str:
    return _checked(os.environ.get(VARIABLE) or 'auto', f'the environment variable {VARIABLE}')


def _checked(name: str, where: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f'{where} must be one of {", ".join(BACKENDS)}, got {name!r}')
    return name


def _automatic(kind: str, num_samples: int | None) -> str:
    if kind == 'cuda' and _HAS_TRITON:
        return 'triton'
    if kind != 'cpu':
        return 'definition'
    # What is compiled shall be one operator, and hold for every size.
    small = not torch.compiler.is_compiling() and num_samples is not None and num_samples < _FEW_SAMPLES
    return 'definition' if small else 'bags'


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET', '0') == '1'


def _report(name: str, kind: str) -> None:
    """Say once per choice, at debug level, which backend computes."""
    if torch.compiler.is_compiling() or (name, kind) in _reported:
        return
    _reported.add((name, kind))
    _logger.debug('deformable attention on %s: backend %s', kind, name)
