"""Digest of the weights that determine a prompt embedding."""

import hashlib

import torch
from torch import nn

# A bank holds embeddings of boxes only: the language model does not matter.
_PROMPT_MODULES = ('backbone', 'neck', 'prompt_encoder')


def fingerprint(model: nn.Module, whole: bool = False) -> str:
    """Hexadecimal digest (64 characters) of backbone, neck and prompt encoder.

    Equal weights have equal digests on any device. If one bit of a weight changes, the digest changes.

    Args:
        model: The detector.
        whole: Whether to digest all weights of the model instead.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(model.state_dict().items()):
        if whole or name.split('.')[0] in _PROMPT_MODULES:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
