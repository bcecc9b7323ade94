"""Which code computes deformable attention: chosen by device, or by the user.

=================  ======================================================================================
``reference``      plain torch on ``grid_sample``, any device, differentiated by autograd
``embedding_bag``  plain torch on ``embedding_bag``, any device, one operator; chosen on a CPU, unless small
``triton``         one fused kernel per direction; chosen on a CUDA device where Triton is installed
=================  ======================================================================================

The environment variable ``DINOR1_MS_DEFORM_ATTN`` names one for the whole process, and
:func:`use_ms_deform_attn_backend` for a block of code, which takes precedence. A backend that was named and cannot run
is an error; it is never replaced by another.
"""

import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator

import torch

from dinor1.utils.errors import InputError

BACKENDS = ('auto', 'reference', 'embedding_bag', 'triton')
VARIABLE = 'DINOR1_MS_DEFORM_ATTN'

# Looked up once at import, because torch.compile can trace neither the lookup nor a cached function.
HAS_TRITON = importlib.util.find_spec('triton') is not None

# Below this number of samples, the many short operations of 'embedding_bag' take longer than the few of 'reference'.
_FEW_SAMPLES = 2**14
# Names of earlier versions.
_RENAMED = {'definition': 'reference', 'bags': 'embedding_bag'}

_logger = logging.getLogger('dinor1.ops')
# One for the process, like torch's own switches: torch.compile can guard on it, and loader threads do not need it.
_named: str | None = None
_reported: set[tuple[str, str]] = set()


@contextlib.contextmanager
def use_ms_deform_attn_backend(name: str) -> Iterator[None]:
    """Within this block, compute deformable attention by the backend ``name``, in the whole process.

    Args:
        name: ``'auto'``, ``'reference'``, ``'embedding_bag'`` or ``'triton'``.

    Raises:
        InputError: there is no such backend.
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
        InputError: there is no such backend.
    """
    return _named if _named is not None else _from_environment()


def ms_deform_attn_backend(device: torch.device | str, num_samples: int | None = None, named: str | None = None) -> str:
    """The backend that computes for tensors on ``device``: ``'reference'``, ``'embedding_bag'`` or ``'triton'``.

    Args:
        device: Of the tensors.
        num_samples: Batch size times queries, heads, levels and points; on a CPU, the automatic choice depends on it.
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
    if not HAS_TRITON:
        return 'the package triton is not installed'
    if kind == 'cpu' and not _interpreted():
        return 'on a CPU there is only the interpreter (TRITON_INTERPRET=1), for tests'
    if kind not in ('cpu', 'cuda'):
        return 'the kernels are made for CUDA devices'
    return ''


def _from_environment() -> str:
    return _checked(os.environ.get(VARIABLE) or 'auto', f'the environment variable {VARIABLE}')


def _checked(name: str, where: str) -> str:
    if name in _RENAMED:
        raise InputError(f'{where}: {name!r} is now called {_RENAMED[name]!r}; use the new name')
    if name not in BACKENDS:
        raise InputError(f'{where} must be one of {", ".join(BACKENDS)}, got {name!r}')
    return name


def _automatic(kind: str, num_samples: int | None) -> str:
    if kind == 'cuda' and HAS_TRITON:
        return 'triton'
    if kind != 'cpu':
        return 'reference'
    # A compiled graph holds one operator, which is good for every size.
    small = not torch.compiler.is_compiling() and num_samples is not None and num_samples < _FEW_SAMPLES
    return 'reference' if small else 'embedding_bag'


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET', '0') == '1'


def _report(name: str, kind: str) -> None:
    """Log, once per choice and at debug level, which backend computes."""
    if torch.compiler.is_compiling() or (name, kind) in _reported:
        return
    _reported.add((name, kind))
    _logger.debug('deformable attention on %s: backend %s', kind, name)
