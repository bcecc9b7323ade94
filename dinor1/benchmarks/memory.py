"""Measure the peak memory of a call, beyond the memory in use before, on a GPU or in this process."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path('/proc/self/status'), Path('/proc/self/clear_refs')


def peak_memory(call: Callable[[], object], device: str) -> float | None:
    """Peak memory of ``call`` in MiB, beyond the memory in use when it begins.

    On a GPU this is the memory that torch allocates. On a CPU it is the resident memory of this process, including its
    other threads, which the Linux kernel counts in pages.

    Args:
        call: Function to measure. It should have run before, so that memory kept between calls is not counted.
        device: ``cpu`` or a CUDA device.

    Returns:
        The peak; None if the system does not count it (not Linux, or the counter cannot be reset).
    """
    # Measure on a GPU.
    gc.collect()
    if device != 'cpu':
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    # Measure on a CPU.
    _return_free_memory()
    try:
        # Writing 5 resets the peak (VmHWM) to the resident memory.
        _CLEAR.write_text('5')
        before = _resident('VmRSS')
    except OSError:
        return None
    call()
    return max(_resident('VmHWM') - before, 0) / 1024


def _return_free_memory() -> None:
    """Let the C library return free memory to the system: a call that reuses it would seem to need less memory."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError):  # another C library than glibc
        return


def _resident(field: str) -> int:
    """Value in KiB of a field of /proc/self/status, such as VmRSS."""
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f'{field}:'):
            return int(line.split()[1])
    raise OSError(f'{_STATUS} has no {field}')
