"""Find a device by name, and check that it is usable."""

import torch

from dinor1.utils.errors import InputError


def as_device(device: str | torch.device | None, option: str = 'device') -> torch.device:
    """Return a device that is usable on this machine.

    Args:
        device: Name such as ``'cpu'`` or ``'cuda:0'``. None: the GPU if there is one, else the CPU.
        option: Name of the user's option, for messages.

    Raises:
        InputError: the device is unknown, or not usable on this machine.
    """
    if device is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    # Parse the name.
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise InputError(f"{option} {device!r}: not a device; give 'cpu' or 'cuda:0'") from None
    if chosen.type == 'cuda' and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"{option} {device!r}: this machine has {torch.cuda.device_count()} CUDA devices; give 'cpu'")
    # Try the device. Every type of device raises its own error if it is not usable; 'meta' has no values.
    try:
        torch.zeros(1, device=chosen).item()
    except Exception as error:
        reason = (str(error).strip().splitlines() or [''])[0].rstrip('.')
        raise InputError(f"{option} {device!r}: not usable on this machine ({reason[:120]}); give 'cpu'") from error
    return chosen
