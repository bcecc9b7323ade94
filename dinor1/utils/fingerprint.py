"""Digest of the weights that determine a prompt embedding."""

import hashlib

import torch
from torch import nn

# A bank holds embeddings of boxes only: the language model does not matter.
_PROMPT_MODULES = ('backbone', 'neck', 'prompt_encoder')
# Further modules that determine the features of a prompt encoder that reads those of the encoder.
_ENCODER_MODULES = ('encoder', 'level_embed')


def fingerprint(model: nn.Module, whole: bool = False) -> str:
    """Hexadecimal digest (64 characters) of backbone, neck and prompt encoder, and the encoder if prompts depend on it.

    Equal weights have equal digests on any device. If one bit of a weight changes, the digest changes.

    Args:
        model: The detector.
        whole: Whether to digest all weights of the model instead.
    """
    digest = hashlib.blake2b(digest_size=32)
    # Choose the modules that prompts depend on.
    reads_encoder = getattr(getattr(model, 'prompt_encoder', None), 'source', 'neck') == 'encoder'
    modules = _PROMPT_MODULES + (_ENCODER_MODULES if reads_encoder else ())
    # Hash their weights.
    for name, tensor in sorted(model.state_dict().items()):
        if whole or name.split('.')[0] in modules:
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
