"""Visual-guided query selection: the encoder tokens that answer the prompts best become decoder queries.

DINO-R1, arXiv 2505.24025; language-guided in Grounding DINO, arXiv 2303.05499, section 3.2.
"""

from typing import NamedTuple

from torch import Tensor

from dinor1.structures import PromptBatch
from dinor1.utils.precision import at_least_float32, full_precision


class Selection(NamedTuple):
    """The N encoder tokens that decoder queries start from.

    Attributes:
        tokens: (bs, N) indices.
        objectness: (bs, N) best prompt logits, falling.
        cls_logits: (bs, N, K) prompt logits.
        boxes: (bs, N, 4) normalised cxcywh.
    """

    tokens: Tensor
    objectness: Tensor
    cls_logits: Tensor
    boxes: Tensor


class SelectionMixin:
    """The part of :class:`~dinor1.models.DINOR1` between encoder and decoder.

    It uses the detector's ``bbox_head``, ``decoder``, ``num_queries`` and ``gen_encoder_output_proposals``, and has no
    parameters of its own.
    """

    def token_logits(
        self, memory: Tensor, memory_prompts: Tensor, prompts: PromptBatch, features: dict[str, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder stage of the head: logits (bs, T, K), token features (bs, T, C), proposals (bs, T, 4) as logits."""
        cls_branch = self.bbox_head.cls_branches[self.decoder.num_layers]
        with full_precision(memory.device):
            token_feat, proposals = self.gen_encoder_output_proposals(
                at_least_float32(memory), features['feat_mask'], features['spatial_shapes']
            )
            logits = cls_branch(token_feat, at_least_float32(memory_prompts), prompts.mask)
        return logits, token_feat, proposals

    def select_queries(
        self, memory: Tensor, memory_prompts: Tensor, prompts: PromptBatch, features: dict[str, Tensor | None]
    ) -> Selection:
        """Visual-guided query selection: the N tokens whose best prompt logit is highest, in falling order.

        N is ``num_queries``, or the number of tokens if that is smaller.
        """
        logits, token_feat, proposals = self.token_logits(memory, memory_prompts, prompts, features)
        objectness, tokens = logits.amax(-1).topk(min(self.num_queries, logits.shape[1]), dim=1)

        def take(tensor: Tensor) -> Tensor:
            return tensor.gather(1, tokens[..., None].expand(-1, -1, tensor.shape[-1]))

        reg_branch = self.bbox_head.reg_branches[self.decoder.num_layers]
        with full_precision(memory.device):
            boxes = (reg_branch(take(token_feat)) + take(proposals)).sigmoid()
        return Selection(tokens, objectness, take(logits), boxes)
