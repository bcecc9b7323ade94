"""MMDetection's plain DINO with GRQO: fixed classes instead of prompts, the same reward and reference."""

import torch
from mmdet.models.detectors import DINO
from torch import Tensor

from dinor1.registry import MODELS

from .reference import ReferenceMixin


@MODELS.register_module()
class DINOGRQO(ReferenceMixin, DINO):
    """``DINO`` that tells its head the objectness of the selected tokens. Use with ``DINOGRQOHead``."""

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict[str, Tensor]:
        """Losses of one batch; arguments as in ``DINO.loss``."""
        scores, head_inputs = self._with_token_scores(
            lambda: self.forward_transformer(self.extract_feat(batch_inputs), batch_data_samples)
        )
        if self.bbox_head.grqo is not None:
            # The very top-k that DINO.pre_decoder takes.
            head_inputs['selected_logits'], selected = scores.topk(self.num_queries, dim=1)
            head_inputs['ref_logits'] = self.reference_logits(selected, batch_inputs, batch_data_samples)
        return self.bbox_head.loss(**head_inputs, batch_data_samples=batch_data_samples)

    def objectness(self, tokens: Tensor, batch_inputs: Tensor, batch_data_samples: list) -> Tensor:
        """(bs, N) best class logit of the encoder tokens ``tokens`` (bs, N)."""
        encoder_inputs, _ = self.pre_transformer(self.extract_feat(batch_inputs), batch_data_samples)
        encoded = self.forward_encoder(**encoder_inputs)
        memory, _ = self.gen_encoder_output_proposals(**encoded)
        return self.bbox_head.cls_branches[self.decoder.num_layers](memory).amax(-1).gather(1, tokens)

    def _with_token_scores(self, run):
        """Call ``run``; also return the (bs, T) scores that its encoder stage computed and does not hand out."""
        scores = []
        branch = self.bbox_head.cls_branches[self.decoder.num_layers]
        handle = branch.register_forward_hook(lambda _module, _inputs, output: scores.append(output.amax(-1)))
        try:
            result = run()
        finally:
            handle.remove()
        return torch.cat(scores), result
