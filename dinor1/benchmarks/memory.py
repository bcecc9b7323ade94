"""Peak memory of a call beyond what was in use before it, on a GPU or in this process."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_memory(call: Callable[[], object], device: str) -> float | None:
    """MiB that ``call`` needs beyond what is held when it begins.

    On a GPU, what torch allocated. On a CPU, the resident memory of this process, measured by the kernel of Linux,
    page by page; other threads of the process count, too.

    Args:
        call: What to measure. It should have run before, so that memory kept between calls is not counted.
        device: ``cpu`` or a CUDA device.

    Returns:
        None where the system does not count it (not Linux, or the counter cannot be reset).
    """
    gc.collect()
    if device != 'cpu':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    _return_free_memory()
    try:
        # 5: the peak (VmHWM) starts again from what is resident now.
        _CLEAR.write_text('5')
        before = _resident('VmRSS')
    except OSError:
        return None
    call()
    return max(_resident('VmHWM') - before, 0) / 1024


def _return_free_memory() -> None:
    """Let the C library return free memory: a call that reuses it would seem to need less."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library than glibc
        return


def _resident(field: str) -> int:
    """KiB."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1])
    raise OSError(f'{_STATUS} has no {field}')
