"""Describe the machine of a benchmark: processor, GPU, driver and versions of the libraries."""

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
from typing import Any

import torch

from dinor1.utils.processor import processor_name

# Names of the distributions of libraries that influence speed.
LIBRARIES = ('triton', 'transformers', 'torchvision', 'onedl-mmdetection')


def version(distribution: str) -> str | None:
    """Version of an installed distribution; None if it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def machine(device: str = 'cuda') -> dict[str, Any]:
    """Hardware and libraries of this machine, and the time in UTC.

    Args:
        device: ``cpu`` or ``cuda``; with ``cuda``, the GPU with its driver is included.
    """
    found: dict[str, Any] = dict(processor=processor_name(), cores=os.cpu_count(), python=platform.python_version())
    # Name the GPU and its driver.
    if device != 'cpu':
        found.update(
            gpu=torch.cuda.get_device_name(),
            capability='.'.join(map(str, torch.cuda.get_device_capability())),
            driver=_driver(),
            cuda=torch.version.cuda,
        )
    # Name the libraries, and the time of the measurement.
    found['torch'] = torch.__version__
    found.update({name: version(name) for name in LIBRARIES})
    found['date'] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec='seconds')
    return found


def _driver() -> str | None:
    if not shutil.which('nvidia-smi'):
        return None
    command = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
    return lines[0] if lines else None
