"""MMDetection's DINO with GRQO: fixed classes instead of prompts, with the same reward and reference model."""

from typing import NamedTuple

import torch
from mmdet.models.detectors import DINO
from torch import Tensor

from dinor1.registry import MODELS
from dinor1.structures import DenoisingGroups

from .reference import ReferenceModel


class DINOOutput(NamedTuple):
    """The part of the decoder's output that is used outside the head.

    Attributes:
        hidden_states: (L, bs, num_dn + Q, C) of the L decoder layers, denoising queries first.
        denoising: How the denoising queries are arranged.
    """

    hidden_states: Tensor
    denoising: DenoisingGroups


@MODELS.register_module()
class DINOGRQO(DINO):
    """``DINO`` that passes the objectness of the selected tokens to its head, a ``DINOGRQOHead``.

    Attributes:
        reference: The reference model of GRQO, set by :class:`dinor1.engine.ReferenceModelHook`; None: there is none.
    """

    reference: ReferenceModel | None = None

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses of one batch; arguments as in ``DINO.loss``."""
        return self.loss_and_output(batch_inputs, batch_data_samples)[0]

    def loss_and_output(self, batch_inputs: Tensor, batch_data_samples: list) -> tuple[dict[str, Tensor], DINOOutput]:
        """Losses of one batch, and the decoder's output that they were computed from."""
        # Run the detector up to the decoder.
        features = self.extract_feat(batch_inputs)
        head_inputs = self.forward_transformer(features, batch_data_samples)
        tokens = head_inputs.pop('selected_tokens', None)
        if self.bbox_head.active_grqo is not None:
            # Add the objectness of the selected tokens, in descending order; the reference scores the same tokens.
            head_inputs['selected_logits'] = head_inputs['enc_outputs_class'].amax(-1)
            if self.reference is not None:
                head_inputs['ref_logits'] = self.reference.logits(tokens, batch_inputs, batch_data_samples)
        # Compute the losses.
        losses = self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)
        meta = head_inputs['dn_meta']
        denoising = DenoisingGroups(meta['num_denoising_queries'], meta['num_denoising_groups'])
        return losses, DINOOutput(head_inputs['hidden_states'], denoising)

    def pre_decoder(
        self, memory: Tensor, memory_mask: Tensor, spatial_shapes: Tensor, batch_data_samples: list | None = None
    ) -> tuple[dict, dict]:
        """``DINO.pre_decoder``; in training with a reference, ``selected_tokens`` (bs, Q) are passed to the loss."""
        decoder_inputs, head_inputs = super().pre_decoder(memory, memory_mask, spatial_shapes, batch_data_samples)
        if self.training and self.reference is not None and self.bbox_head.active_grqo is not None:
            with torch.no_grad():
                head_inputs['selected_tokens'] = (
                    self._token_logits(memory, memory_mask, spatial_shapes).topk(self.num_queries, dim=1).indices
                )
        return decoder_inputs, head_inputs

    def objectness(self, tokens: Tensor, batch_inputs: Tensor, batch_data_samples: list) -> Tensor:
        """(bs, N) highest class logit of the encoder tokens with indices ``tokens`` (bs, N)."""
        encoder_inputs, _ = self.pre_transformer(self.extract_feat(batch_inputs), batch_data_samples)
        return self._token_logits(**self.forward_encoder(**encoder_inputs)).gather(1, tokens)

    def _token_logits(self, memory: Tensor, memory_mask: Tensor, spatial_shapes: Tensor) -> Tensor:
        """(bs, T) highest class logit of every encoder token."""
        feat, _ = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        return self.bbox_head.cls_branches[self.decoder.num_layers](feat).amax(-1)
