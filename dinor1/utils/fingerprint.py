"""Digest of the weights that a prompt embedding depends on."""

import hashlib

import torch
from torch import nn

_PROMPT_MODULES = ('backbone', 'neck', 'prompt_encoder', 'language_model', 'text_feat_map')


def fingerprint(model: nn.Module, whole: bool = False) -> str:
    """Hexadecimal digest (64 characters) of backbone, neck, prompt encoder and language model.

    Equal for equal weights on any device; changes with one bit of one weight.

    Args:
        model: The detector.
        whole: Digest all weights of the model instead.
    """
    digest = hashlib.blake2b(digest_size=32)
    for name, tensor in sorted(model.state_dict().items()):
        if whole or name.split('.')[0] in _PROMPT_MODULES:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
