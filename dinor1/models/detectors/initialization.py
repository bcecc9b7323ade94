"""Initial weights of the detector."""

from typing import TYPE_CHECKING

from torch import nn

from ..transformer import MSDeformAttention

if TYPE_CHECKING:
    from .dino_r1 import DINOR1


def initialize_transformer(model: 'DINOR1') -> None:
    """Initialise the weights of transformer and text side in place, as Grounding DINO does.

    Args:
        model: The detector; the other parts initialise themselves.
    """
    # Initialise all matrices of the transformer, then the attention modules that have their own scheme.
    for part in (model.encoder, model.decoder):
        for parameter in part.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    for module in model.modules():
        if isinstance(module, MSDeformAttention):
            module.init_weights()
    # Initialise query selection, embeddings and the map of text embeddings.
    nn.init.xavier_uniform_(model.memory_trans_fc.weight)
    nn.init.xavier_uniform_(model.query_embedding.weight)
    nn.init.normal_(model.level_embed)
    if model.text_feat_map is not None:
        nn.init.xavier_uniform_(model.text_feat_map.weight)
        nn.init.zeros_(model.text_feat_map.bias)
