"""From selected tokens to the output of the decoder."""

from torch import Tensor, nn

from dinor1.structures import DetectorOutput, EncoderOutput, ImageFeatures, QuerySelection

from .denoising import DenoisingQueries


def decode_queries(
    decoder: nn.Module,
    reg_branches: nn.ModuleList,
    query_embedding: Tensor,
    encoded: EncoderOutput,
    features: ImageFeatures,
    selection: QuerySelection,
    noised: DenoisingQueries | None = None,
) -> DetectorOutput:
    """Decode the selected queries; in training the denoising queries come before them.

    Args:
        decoder: The decoder, such as :class:`~dinor1.models.transformer.PromptedDecoder`.
        reg_branches: Box heads of the decoder layers.
        query_embedding: (N, C) content of the queries.
        encoded: Output of the encoder.
        features: Shapes and padding of the image tokens.
        selection: The selected tokens.
        noised: Denoising queries in training; None: none.
    """
    # Start from the boxes of the selected tokens, without gradient.
    bs, num_selected = selection.tokens.shape
    query = query_embedding[:num_selected].expand(bs, -1, -1)
    reference_points = selection.boxes.detach()
    # Put the denoising queries in front.
    self_attn_mask = None
    if noised is not None:
        query, reference_points, self_attn_mask = noised.before(query, reference_points)
    # Run the decoder layers.
    memory, prompts = encoded.memory, encoded.prompts
    hidden_states, references, branch_states = decoder(
        query, reference_points, memory, features, prompts, reg_branches, selection.cls_logits, self_attn_mask
    )
    if noised is None:
        return DetectorOutput(hidden_states, references, prompts, selection)
    # In training, keep the logits of the gates at the selected tokens for their loss.
    gate_logits = encoded.gate_logits_at(selection.tokens)
    return DetectorOutput(hidden_states, references, prompts, selection, noised.groups, gate_logits, branch_states)
