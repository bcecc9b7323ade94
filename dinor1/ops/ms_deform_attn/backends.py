"""Choice of the backend that computes deformable attention: by device, or by the user.

=================  ============================================================================================
``reference``      plain torch with ``grid_sample``, any device, differentiated by autograd
``embedding_bag``  plain torch with ``embedding_bag``, any device, one operator; default on a CPU except for few samples
``triton``         one fused kernel for each of forward and backward; default on a CUDA device if Triton is installed
=================  ============================================================================================

The environment variable ``DINOR1_MS_DEFORM_ATTN`` names a backend for the whole process, and
:func:`use_ms_deform_attn_backend` for a block of code, which takes precedence. If a named backend cannot run, an error
is raised; another backend never replaces it.
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

# With fewer samples, the many short operations of 'embedding_bag' take longer than the few operations of 'reference'.
_FEW_SAMPLES = 2**14
# Backend names of earlier versions -> today's names.
_RENAMED = {'definition': 'reference', 'bags': 'embedding_bag'}

_logger = logging.getLogger('dinor1.ops')
# Global to the process, like torch's own settings: torch.compile can guard on it, and loader threads do not need it.
_named: str | None = None
_reported: set[tuple[str, str]] = set()


@contextlib.contextmanager
def use_ms_deform_attn_backend(name: str) -> Iterator[None]:
    """Compute deformable attention with the backend ``name`` within this block, in all threads of the process.

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
    """The backend that the user named for this block or the process; ``'auto'`` if none was named.

    Raises:
        InputError: there is no such backend.
    """
    return _named if _named is not None else _from_environment()


def ms_deform_attn_backend(device: torch.device | str, num_samples: int | None = None, named: str | None = None) -> str:
    """The backend for tensors on ``device``: ``'reference'``, ``'embedding_bag'`` or ``'triton'``.

    Args:
        device: Device of the tensors.
        num_samples: Batch size times queries, heads, levels and points; on a CPU, the automatic choice depends on it.
        named: The backend that the user had named when the computation began. Default: the backend named now.

    Raises:
        ValueError: the named backend cannot run on the device, or does not exist.
    """
    # Resolve the automatic choice, or check the named backend.
    kind = device.type if isinstance(device, torch.device) else str(device).split(':')[0]
    name = named_ms_deform_attn_backend() if named is None else named
    if name == 'auto':
        name = _automatic(kind, num_samples)
    elif name == 'triton' and (reason := why_not_triton(kind)):
        raise ValueError(f"backend 'triton' cannot run on {kind}: {reason}; name another backend or 'auto'")
    _report(name, kind)
    return name


def why_not_triton(kind: str) -> str:
    """Why the Triton kernels cannot run on a kind of device, such as ``'cuda'``; empty if they can."""
    if not HAS_TRITON:
        return 'the package triton is not installed'
    if kind == 'cpu' and not _interpreted():
        return 'on a CPU there is only the interpreter (TRITON_INTERPRET=1), for tests'
    if kind not in ('cpu', 'cuda'):
        return 'the kernels are written for CUDA devices'
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
    # A compiled graph contains one operator, which must serve every number of samples.
    small = not torch.compiler.is_compiling() and num_samples is not None and num_samples < _FEW_SAMPLES
    return 'reference' if small else 'embedding_bag'


def _interpreted() -> bool:
    return os.environ.get('TRITON_INTERPRET', '0') == '1'


def _report(name: str, kind: str) -> None:
    """Log the backend at debug level, once for each backend and kind of device."""
    if torch.compiler.is_compiling() or (name, kind) in _reported:
        return
    _reported.add((name, kind))
    _logger.debug('deformable attention on %s: backend %s', kind, name)
