"""Name the processor of this machine."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Name of the processor, or of its architecture if the system does not report a name.

    Results are bitwise reproducible only on the same processor, and every benchmark depends on it.
    """
    info = Path('/proc/cpuinfo')
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(':', 1)[1].strip() for line in lines if line.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()
