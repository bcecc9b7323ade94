"""Untrained GPT-2 of transformers, of any size, as a model of MMEngine."""

from typing import Any

import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor

from dinor1.registry import MODELS


@MODELS.register_module()
class GPT2(BaseModel):
    """GPT-2 for next-token prediction.

    Args:
        vocab_size: Number of tokens; 256 for bytes.
        block_size: Longest input.
        embed_dims: Width.
        num_layers: Blocks.
        num_heads: Attention heads.
        **kwargs: Further settings of transformers' ``GPT2Config``.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        block_size: int = 64,
        embed_dims: int = 64,
        num_layers: int = 4,
        num_heads: int = 4,
        **kwargs: Any,
    ) -> None:
        super().__init__()
        from transformers import GPT2Config, GPT2LMHeadModel

        config = dict(resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=None, eos_token_id=None) | kwargs
        self.lm = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=vocab_size,
                n_positions=block_size,
                n_embd=embed_dims,
                n_layer=num_layers,
                n_head=num_heads,
                **config,
            )
        )

    def forward(self, input_ids: Tensor, mode: str = 'tensor') -> Tensor | dict[str, Tensor]:
        """Run the model as MMEngine's loops do.

        Args:
            input_ids: (B, T) tokens, T at most ``block_size``.
            mode: ``loss``, ``predict`` or ``tensor``.

        Returns:
            ``loss``: a dict with the mean cross-entropy of the tokens after the first, nats. ``predict``: the same per
            text, (B,). ``tensor``: logits (B, T, vocab_size).
        """
        logits = self.lm(input_ids=input_ids, use_cache=False).logits
        if mode == 'tensor':
            return logits
        losses = F.cross_entropy(logits[:, :-1].transpose(1, 2).float(), input_ids[:, 1:], reduction='none').mean(1)
        return dict(loss=losses.mean()) if mode == 'loss' else losses
