"""The small part of the detector that an adaptation may tune in addition to the prompts, and its file.

This part consists of the parameters between the last layer of the decoder and the logits: the norm of the decoder's
output, and the biases and query maps of the classification branches. In ``lite`` these are 260 of 5.5 million
parameters. A prompt bank only holds embeddings. Therefore a tuned head has its own file. It can only be used with the
weights with which it was tuned. A bank that was tuned together with a head records this head, and is rejected without
it.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dinor1.utils.errors import InputError
from dinor1.utils.io import atomic_path, check_utf8

_MODULES = ('bbox_head.cls_branches.', 'decoder.norm.')
_FORMAT = 'dinor1.tuned_head/1'


def head_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters of the head by name, in the order of the model."""
    return {name: parameter for name, parameter in model.named_parameters() if name.startswith(_MODULES)}


def copy_head(model: nn.Module) -> dict[str, Tensor]:
    """The values of the head's parameters, on the CPU."""
    return {name: parameter.detach().cpu().clone() for name, parameter in head_parameters(model).items()}


@torch.no_grad()
def set_head(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Overwrite the head's parameters.

    Args:
        model: The detector.
        tensors: Values of all parameters of the head, of their shapes.
    """
    for name, parameter in head_parameters(model).items():
        parameter.copy_(tensors[name])


@contextlib.contextmanager
def restored_head(model: nn.Module) -> Iterator[None]:
    """Restore the head's parameters at the end; they are bitwise identical to the previous ones."""
    before = copy_head(model)
    try:
        yield
    finally:
        set_head(model, before)


@dataclass(frozen=True)
class TunedHead:
    """Values of the head's parameters, and the fingerprint of the model to which they belong.

    Attributes:
        tensors: Values by name of the parameter, on the CPU.
        fingerprint: Digest of all weights of the model before the tuning
            (:func:`dinor1.utils.fingerprint.fingerprint`).
        adaptations: A dict for each adaptation that tuned the head.
    """

    tensors: dict[str, Tensor]
    fingerprint: str
    adaptations: tuple[dict[str, Any], ...] = ()

    @property
    def digest(self) -> str:
        """Hexadecimal digest (64 characters) of names and values."""
        digest = hashlib.blake2b(digest_size=32)
        for name, tensor in sorted(self.tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def save(self, path: str | PathLike) -> None:
        """Write a ``.safetensors`` file: completely or not at all.

        Raises:
            InputError: the path is not valid UTF-8.
        """
        check_utf8(path)
        metadata = dict(format=_FORMAT, fingerprint=self.fingerprint, adaptations=json.dumps(self.adaptations))
        with atomic_path(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in self.tensors.items()}, temporary, metadata)

    @classmethod
    def load(cls, path: str | PathLike, model: nn.Module, fingerprint: str) -> 'TunedHead':
        """Read a tuned head.

        Args:
            path: File written by :meth:`save`.
            model: The detector that will use it; it is not changed.
            fingerprint: Digest of all weights of the detector without a tuned head.

        Raises:
            InputError: the file is missing, damaged or not a tuned head, or it belongs to another model.
        """
        # Read the file.
        try:
            with safe_open(path, framework='pt') as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
        except FileNotFoundError:
            raise InputError(f'{path}: no such tuned head; make one with dinor1 adapt --parts head') from None
        except (SafetensorError, OSError, UnicodeEncodeError) as error:
            raise InputError(f'{path}: not a readable safetensors file ({error})') from None
        if metadata.get('format') != _FORMAT:
            raise InputError(f'{path}: not a tuned head of dinor1; make one with dinor1 adapt --parts head')
        # Check that it belongs to the model, and that its values can be used.
        if metadata.get('fingerprint') != fingerprint:
            raise InputError(f'{path}: this head was tuned on another model; adapt again with this checkpoint')
        expected = {name: parameter.shape for name, parameter in head_parameters(model).items()}
        finite = all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values())
        if {name: tensor.shape for name, tensor in tensors.items()} != expected or not finite:
            raise InputError(f'{path}: a damaged tuned head; make it again with dinor1 adapt --parts head')
        try:
            adaptations = tuple(json.loads(metadata.get('adaptations', '[]')))
        except (ValueError, TypeError):
            raise InputError(f'{path}: a damaged tuned head; make it again with dinor1 adapt --parts head') from None
        return cls(tensors, fingerprint, adaptations)
